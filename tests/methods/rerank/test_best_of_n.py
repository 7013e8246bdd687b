"""Best of n against every subset written out, and against the exact law on a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import Chat, Policy, Sampling, Scorable, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.judges.function import FunctionJudge
from truing.methods.rerank.best_of_n import BestOfN, best_of_n_weights
from truing.models.tabular import Tabular

CHAT, OTHER = user("which?"), user("and now?")
WORTH = {"a": 2.0, "b": -1.0, "c": 2.0, "d": 0.5, "e": 7.0}  # a and c tie
CHANCE = torch.tensor([0.15, 0.35, 0.2, 0.2, 0.1], dtype=torch.float64)
TABLE = Tabular((CHAT, OTHER), tuple(WORTH), torch.stack([CHANCE, CHANCE.flip(0)]).log())


def worth(chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
    return [WORTH[reply] for reply in replies]


def best(n: int) -> Policy:
    return BestOfN(n=n)(TABLE, Evidence(judge=FunctionJudge(worth)), Run())


def by_subsets(scores: Sequence[float], n: int) -> list[float]:
    """Every subset once; the best of a subset share its turn."""
    weights = [0.0] * len(scores)
    for subset in combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        winners = [i for i in subset if scores[i] == top]
        for i in winners:
            weights[i] += 1 / len(winners) / comb(len(scores), n)
    return weights


class TestWeights:
    @given(st.lists(st.integers(-2, 2), min_size=1, max_size=8), st.data())
    def test_they_are_those_of_every_subset(self, scores: list[int], data: st.DataObject) -> None:
        """Few levels, so that most pools have ties."""
        n = data.draw(st.integers(1, len(scores)))
        found = best_of_n_weights(np.array(scores, dtype=float), n=n)
        assert found.tolist() == pytest.approx(by_subsets(scores, n), rel=1e-12, abs=1e-15)

    def test_all_of_the_pool_is_its_maximum_shared_by_ties(self) -> None:
        assert best_of_n_weights(np.array([1.0, 3.0, 2.0, 3.0]), n=4).tolist() == [0, 0.5, 0, 0.5]

    def test_one_of_the_pool_is_any_of_it(self) -> None:
        assert best_of_n_weights(np.array([1.0, 3.0, 2.0, 3.0]), n=1).tolist() == [0.25] * 4

    @given(st.lists(st.integers(-9, 9), min_size=3, max_size=9), st.integers(1, 3))
    def test_only_the_order_of_the_scores_counts(self, scores: list[int], n: int) -> None:
        plain = best_of_n_weights(np.array(scores, dtype=float), n=n)
        assert plain.tolist() == best_of_n_weights(np.exp(np.array(scores) / 4), n=n).tolist()

    def test_a_wide_pool_stays_finite(self) -> None:
        """C(2000, 900) is no float; the best is in the subset in 900 of 2000 cases."""
        found = best_of_n_weights(np.arange(2000.0), n=900)
        assert float(found.sum()) == pytest.approx(1, rel=1e-12)
        assert found[-1] == pytest.approx(0.45, rel=1e-9)

    @pytest.mark.parametrize("size", [0, 2])
    def test_a_pool_smaller_than_n_is_refused(self, size: int) -> None:
        with pytest.raises(InputError, match="n = 3 needs a pool"):
            best_of_n_weights(np.zeros(size), n=3)


def exact_law(chance: torch.Tensor, n: int) -> dict[str, float]:
    """``F_i ** n - F_(i-1) ** n`` of each level; replies that tie share it as the base does."""
    law = {}
    for (reply, score), p in zip(WORTH.items(), chance.tolist(), strict=True):
        level = sum(q for s, q in zip(WORTH.values(), chance.tolist(), strict=True) if s == score)
        below = sum(q for s, q in zip(WORTH.values(), chance.tolist(), strict=True) if s < score)
        law[reply] = ((below + level) ** n - below**n) * p / level
    return law


@pytest.mark.parametrize("n", [2, 3, 5])
def test_draws_from_a_table_follow_the_exact_law(n: int) -> None:
    """Chi-square with 4 degrees of freedom: 18.5 is passed once in a thousand, and the seed is fixed."""
    count = 3000
    rows = best(n).sample([CHAT, OTHER], n=count, sampling=Sampling(), rng=Rng(5))
    for row, chance in zip(rows, (CHANCE, CHANCE.flip(0)), strict=True):
        law = exact_law(chance, n)
        assert sum(law.values()) == pytest.approx(1)
        drawn = [draw.text for draw in row]
        assert len(drawn) == count
        assert sum((drawn.count(reply) - count * p) ** 2 / (count * p) for reply, p in law.items()) < 18.5
        base = dict(zip(WORTH, chance.tolist(), strict=True))  # and are far from the base's
        assert sum((drawn.count(reply) - count * p) ** 2 / (count * p) for reply, p in base.items()) > 100


class TestSampling:
    def test_a_draw_is_one_of_the_bases_own_the_best_of_its_n(self) -> None:
        """Tokens and log-probabilities included; the k-th from the k-th n draws."""
        (row,) = best(4).sample([CHAT], n=6, sampling=Sampling(), rng=Rng(1))
        (pool,) = TABLE.sample([CHAT], n=24, sampling=Sampling(), rng=Rng(1))
        for k, draw in enumerate(row):
            own = pool[4 * k : 4 * k + 4]
            assert draw in own
            assert WORTH[draw.text] == max(WORTH[other.text] for other in own)

    def test_it_hangs_on_nothing_else_in_the_call(self) -> None:
        both = best(3).sample([CHAT, OTHER], n=20, sampling=Sampling(), rng=Rng(2))
        assert both[::-1] == best(3).sample([OTHER, CHAT], n=20, sampling=Sampling(), rng=Rng(2))
        assert [both[1][:7]] == best(3).sample([OTHER], n=7, sampling=Sampling(), rng=Rng(2))
        assert both != best(3).sample([CHAT, OTHER], n=20, sampling=Sampling(), rng=Rng(3))

    def test_ties_fall_both_ways(self) -> None:
        """Equal scores: the first of a pool is not favoured."""
        judge = FunctionJudge(lambda chats, replies: [0.0] * len(replies))
        even = Tabular((CHAT,), ("x", "y"), torch.zeros(1, 2))
        policy = BestOfN(n=2)(even, Evidence(judge=judge), Run())
        (tied,) = policy.sample([CHAT], n=400, sampling=Sampling(), rng=Rng(0))
        (pool,) = even.sample([CHAT], n=800, sampling=Sampling(), rng=Rng(0))
        mixed = [k for k in range(400) if pool[2 * k] != pool[2 * k + 1]]
        firsts = sum(tied[k] == pool[2 * k] for k in mixed)
        assert abs(firsts - len(mixed) / 2) < 3.3 * (len(mixed) / 4) ** 0.5

    def test_no_chats_and_no_draws(self) -> None:
        assert best(3).sample([], n=2, sampling=Sampling(), rng=Rng(0)) == []

    def test_the_judge_sees_each_reply_with_its_own_chat(self) -> None:
        seen: list[tuple[Chat, str]] = []

        def keep(chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
            seen.extend(zip(chats, replies, strict=True))
            return worth(chats, replies)

        policy = BestOfN(n=2)(TABLE, Evidence(judge=FunctionJudge(keep)), Run())
        policy.sample([CHAT, OTHER], n=3, sampling=Sampling(), rng=Rng(4))
        pools = TABLE.sample([CHAT, OTHER], n=6, sampling=Sampling(), rng=Rng(4))
        drawn = [(chat, draw.text) for chat, pool in zip((CHAT, OTHER), pools, strict=True) for draw in pool]
        assert seen == drawn


def test_n_1_is_the_base_itself_even_without_a_judge() -> None:
    assert BestOfN(n=1)(TABLE, Evidence(), Run()) is TABLE


def test_a_judge_is_needed() -> None:
    with pytest.raises(InputError, match="needs a judge"):
        BestOfN(n=2)(TABLE, Evidence(), Run())


def test_n_is_one_at_least() -> None:
    with pytest.raises(InputError, match="n = 0"):
        BestOfN(n=0)


def test_it_claims_no_density() -> None:
    assert not isinstance(best(2), Scorable)
