from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pools import Best, Listed, Soft, Table, pool

from truing.core.errors import InputError, RunError
from truing.core.policy import Draw, Policy, Sampling, user
from truing.core.rng import Rng
from truing.probes.kl import kl, level_kl, log_ratios
from truing.probes.pool import Pool

RNG = Rng(5)
OURS = {"yes": np.log([0.5, 0.8]), "no": np.log([0.5, 0.2]), "hm": np.log([0.5])}
THEIRS = {"yes": np.log([0.25, 0.5]), "no": np.log([0.25, 0.5]), "hm": np.log([0.75])}
TRUTH = 0.4 * np.log(0.4 / 0.125) + 0.1 * np.log(0.1 / 0.125) + 0.5 * np.log(0.5 / 0.75)


def drawn(policy: Table, prompts: int, draws: int) -> Pool:
    chats = tuple(user(str(p)) for p in range(prompts))
    made = policy.sample(chats, n=draws, sampling=Sampling(), rng=Rng(0))
    return Pool("arm", "own", chats, made, np.zeros((prompts, draws)))


def test_two_policies_that_list_their_replies_give_the_exact_sum() -> None:
    arm, base = Listed(OURS, name="a"), Listed(dict(reversed(THEIRS.items())), name="b")
    (found,) = kl(drawn(arm, 3, 2), arm, base, rng=RNG)
    assert found.value == pytest.approx(TRUTH, abs=1e-12)
    assert (found.kind, found.low, found.high, found.n, found.unit) == ("exact", found.value, found.value, 3, "nats")


def test_what_only_the_arm_can_say_makes_it_infinite_and_what_only_the_base_can_adds_nothing() -> None:
    one, two = Listed({"a": [0.0]}, name="one"), Listed({"a": np.log([0.5]), "b": np.log([0.5])}, name="two")
    assert kl(drawn(one, 2, 1), one, two, rng=RNG)[0].value == pytest.approx(np.log(2))
    assert kl(drawn(two, 2, 1), two, one, rng=RNG)[0].value == np.inf


def test_the_estimate_comes_to_the_exact_value_and_its_interval_holds_it() -> None:
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    (found,) = kl(drawn(arm, 400, 16), arm, base, rng=RNG)
    assert found.kind == "estimate"
    assert found.low < TRUTH < found.high
    assert found.value == pytest.approx(TRUTH, abs=0.03)
    assert base.calls == 1
    assert arm.calls == 0  # the draws carry their own log-probabilities


def test_draws_without_log_probabilities_are_scored_by_the_arm() -> None:
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    full = drawn(arm, 5, 4)
    bare = replace(full, draws=[[replace(d, logprobs=()) if i % 2 else d for i, d in enumerate(r)] for r in full.draws])
    np.testing.assert_allclose(log_ratios(bare, arm, base), log_ratios(full, arm, base), atol=1e-12)
    assert arm.calls == 1


def test_the_base_itself_has_moved_by_exactly_nothing() -> None:
    base = Table(THEIRS)
    (found,) = kl(drawn(base, 3, 2), Table(THEIRS), base, rng=RNG)
    assert (found.value, found.low, found.high, found.kind) == (0.0, 0.0, 0.0, "exact")
    assert base.calls == 0


def test_a_mixed_up_order_of_draws_changes_nothing() -> None:
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    there = drawn(arm, 6, 5)
    back = replace(there, draws=[list(reversed(row)) for row in there.draws])
    assert kl(back, arm, base, rng=RNG)[0].value == pytest.approx(kl(there, arm, base, rng=RNG)[0].value, abs=1e-12)


def test_what_the_number_is_not_is_said_beside_it() -> None:
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    full = drawn(arm, 2, 2)
    cut = replace(full, draws=[[replace(full.draws[0][0], finish="length"), full.draws[0][1]], full.draws[1]])
    assert kl(full, arm, base, rng=RNG)[0].note == ""
    assert "of the first" in kl(cut, arm, base, rng=RNG)[0].note
    assert "1 of 4 draws" in kl(cut, arm, base, rng=RNG)[0].note
    assert "not from the policy itself" in kl(full, arm, base, rng=RNG, on_policy=False)[0].note


def test_another_tokeniser_a_nan_and_a_silent_policy_are_refused() -> None:
    arm, base = Table(OURS, name="a"), Table({**THEIRS, "yes": np.log([0.1, 0.5, 0.5])}, name="b")
    with pytest.raises(InputError, match="tokeniser"):
        kl(drawn(arm, 5, 4), arm, base, rng=RNG)
    with pytest.raises(RunError, match="NaN"):
        kl(drawn(arm, 5, 4), arm, Table({**THEIRS, "hm": [np.nan]}, name="b"), rng=RNG)

    class Mute(Policy):
        sample = save = None
        fingerprint = "mute"

    silent = pool([[0.0]])
    with pytest.raises(InputError, match="cannot score"):
        kl(silent, Mute(), base, rng=RNG)


def best_law(mass: Sequence[float], n: int) -> np.ndarray:
    """The law of the best of n by listing every n-tuple of levels."""
    law = np.zeros(len(mass))
    for levels in np.ndindex(*[len(mass)] * n):
        law[max(levels)] += np.prod([mass[level] for level in levels])
    return law


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_discrete_value_is_the_kl_of_the_law_by_brute_force(n: int) -> None:
    mass = [0.5, 0.25, 0.125, 0.125]
    law = best_law(mass, n)
    assert level_kl(np.array(mass), n) == pytest.approx((law * np.log(law / mass)).sum(), abs=1e-12)
    scores = [[0, 0, 0, 0, 1, 1, 2, 3], [9, 5, 5, 5, 5, 6, 6, 7.5]]
    found, bound = kl(pool(scores, choose=Best(n)), Table(OURS, name="a"), Table(THEIRS, name="b"), rng=RNG)
    assert found.value == pytest.approx(level_kl(np.array(mass), n), abs=1e-12)
    assert bound.probe == "kl_bound"
    assert bound.kind == "bound"
    assert found.value <= bound.value + 1e-12
    assert "plug-in" in found.note or n == 1


@pytest.mark.parametrize("n", [2, 4, 16])
def test_with_many_levels_it_comes_to_log_n_minus_n_minus_1_over_n_from_below(n: int) -> None:
    values = [level_kl(np.full(levels, 1 / levels), n) for levels in (10, 100, 1000, 10000)]
    bound = np.log(n) - (n - 1) / n
    assert values == sorted(values)
    assert bound - 1e-3 < values[-1] < bound


def test_without_ties_only_the_bound_is_left() -> None:
    tied, free = [0, 0, 1, 1, 2], [0, 1, 2, 3, 4]
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    found, bound = kl(pool([free, free, tied], choose=Best(3)), arm, base, rng=RNG)
    assert (found.kind, found.value) == ("bound", bound.value)
    assert found.value == pytest.approx(np.log(3) - 2 / 3)
    assert kl(pool([free, tied], choose=Best(3)), arm, base, rng=RNG)[0].kind == "estimate"


def test_all_equal_scores_move_nothing_and_best_of_one_is_the_base() -> None:
    arm, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    assert kl(pool([[1, 1, 1]] * 3, choose=Best(2)), arm, base, rng=RNG)[0].value == 0
    found = kl(pool([[0, 1, 2]] * 3, choose=Best(1)), arm, base, rng=RNG)[0]
    assert (found.value, found.kind) == (0.0, "exact")


def test_other_ways_to_rerank_have_no_known_density() -> None:
    assert kl(pool([[0, 0, 1]], choose=Soft(2)), Table(OURS), Table(THEIRS), rng=RNG) == []


def test_best_of_n_over_another_source_has_moved_with_it() -> None:
    """Chain rule: KL(best || base) = KL(best || source) + E_best[log source / base]; here with exact masses."""
    source, base = Table(OURS, name="a"), Table(THEIRS, name="b")
    texts = ["yes"] * 4 + ["no"] + ["hm"] * 5  # just as the source's masses: 0.4, 0.1, 0.5
    scores = np.array([[2.0] * 4 + [1.0] + [0.0] * 5] * 3)
    chats = tuple(user(str(p)) for p in range(3))
    draws = [[source.draw(text) for text in texts]] * 3
    arm = Pool("bon", "tuned", chats, draws, scores, _Plug(2))
    mass, q = np.array([0.5, 0.1, 0.4]), np.array([0.75, 0.125, 0.125])
    law = best_law(mass, 2)
    found, _ = kl(arm, source, base, rng=RNG, base_source="base")
    assert found.value == pytest.approx((law * np.log(law / q)).sum(), abs=1e-9)
    alone, _ = kl(arm, source, base, rng=RNG, base_source="tuned")
    assert alone.value == pytest.approx((law * np.log(law / mass)).sum(), abs=1e-9)


class _Plug(Best):
    """Best-of-n drawn with replacement, so that pool and population are one."""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        if self.n == len(scores):
            return super().__call__(scores)
        _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
        return (best_law(counts / len(scores), self.n) / counts)[place]


def test_a_draw_without_tokens_adds_nothing() -> None:
    base = Table({**THEIRS, "": ()}, name="b")
    arm = Pool("arm", "own", (user("a"),), [[Draw("")]], np.zeros((1, 1)))
    assert kl(arm, Table({**OURS, "": ()}, name="a"), base, rng=RNG)[0].value == 0
