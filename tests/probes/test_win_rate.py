from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from pools import Best, Soft, pool

from truing.core.errors import InputError
from truing.core.evidence import Judge
from truing.core.rng import Rng
from truing.probes import duel
from truing.probes.win_rate import win_rate

TIED = [[0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], [5.0, 0.5, 2.0, 0.5, 9.0, 2.0, 1.0]]
RNG = Rng(3)


def disjoint(scores: np.ndarray, first: object, second: object) -> float:
    """The definition: every pair of subsets without a common draw, once each."""
    total = count = 0.0
    for ours in map(list, combinations(range(len(scores)), first.n)):
        rest = [i for i in range(len(scores)) if i not in ours]
        for theirs in map(list, combinations(rest, second.n)):
            w, v = first(scores[ours]), second(scores[theirs])
            total += sum(
                w[a] * v[b] * (scores[i] > scores[j] or 0.5 * (scores[i] == scores[j]))
                for a, i in enumerate(ours)
                for b, j in enumerate(theirs)
            )
            count += 1
    return total / count


@pytest.mark.parametrize("n", [2, 3, 6])
def test_best_of_n_of_distinct_scores_beats_its_base_in_n_of_n_plus_1(n: int) -> None:
    base = pool([np.random.default_rng(p).permutation(7.0 * np.arange(7)) for p in range(4)], arm="base")
    found = win_rate(replace(base, arm="bon", choose=Best(n)), base, rng=RNG)
    assert found.value == pytest.approx(n / (n + 1), abs=1e-12)
    assert found.n == 4
    assert (found.unit, found.better) == ("probability", "up")


@pytest.mark.parametrize(("first", "second"), [(2, 1), (3, 1), (6, 1), (1, 2), (2, 3), (4, 3), (5, 2)])
@pytest.mark.parametrize("kind", [Best, Soft])
def test_arms_of_one_pool_equal_brute_force_with_ties(first: int, second: int, kind: type) -> None:
    base = pool(TIED)
    found = win_rate(replace(base, choose=kind(first)), replace(base, choose=kind(second)), rng=RNG)
    truth = np.mean([disjoint(row, kind(first), kind(second)) for row in base.scores])
    assert found.value == pytest.approx(truth, abs=1e-12)


def test_the_base_is_best_of_one() -> None:
    base = pool(TIED)
    bon = replace(base, choose=Best(3))
    assert win_rate(bon, base, rng=RNG) == win_rate(bon, replace(base, choose=Best(1)), rng=RNG)


def test_two_kinds_of_reranker_on_one_pool() -> None:
    base = pool(TIED)
    found = win_rate(replace(base, choose=Best(3)), replace(base, choose=Soft(2)), rng=RNG)
    assert found.value == pytest.approx(np.mean([disjoint(row, Best(3), Soft(2)) for row in base.scores]), abs=1e-12)


def test_it_is_unbiased_for_fresh_draws() -> None:
    """Best of 3 against best of 2 of a three-level score of known masses, over many small pools."""
    mass, generator = np.array([0.5, 0.3, 0.2]), np.random.default_rng(0)
    three, two = (np.diff(np.cumsum(mass) ** n, prepend=0) for n in (3, 2))
    truth = sum(three[i] * two[j] * (1.0 if i > j else 0.5 if i == j else 0) for i in range(3) for j in range(3))
    pools = pool(generator.choice(3, size=(20_000, 6), p=mass))
    joint = duel.joint_of_best(6, 3, 2)
    values = np.array([duel.win_of_best(row, joint) for row in pools.scores])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))


def test_more_subsets_than_are_visited_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    row = np.array(TIED[2])
    exact = duel.win_of_any(row, Soft(3), Soft(2), RNG)
    monkeypatch.setattr(duel, "MOST", 20)
    drawn = [duel.win_of_any(row, Soft(3), Soft(2), RNG.child(k)) for k in range(60)]
    assert len(set(drawn)) > 30
    assert np.mean(drawn) == pytest.approx(exact, abs=4 * np.std(drawn) / np.sqrt(60))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 1), (3, 5)])
def test_the_joint_law_sums_to_one_without_a_draw_meeting_itself(n: int, m: int) -> None:
    joint = duel.joint_of_best(9, n, m)
    assert joint.sum() == pytest.approx(1)
    assert (np.diag(joint) == 0).all()


def test_swapping_the_arms_gives_one_minus() -> None:
    base, other = pool(TIED), pool([[0.0, 2.0, 2.0], [1.0, 3.0, 1.0], [2.0, 2.0, 6.0]], source="else", arm="b")
    for arm, rival in [(base, other), (replace(base, choose=Best(4)), replace(base, choose=Best(2)))]:
        there, back = win_rate(arm, rival, rng=RNG), win_rate(rival, arm, rng=RNG)
        assert there.value == pytest.approx(1 - back.value)
        assert there.value != 0.5


def test_the_order_of_draws_does_not_matter() -> None:
    base, mixed = pool(TIED), pool([list(reversed(row)) for row in TIED])
    for choose in (Best(3), Soft(2)):
        there = win_rate(replace(base, choose=choose), base, rng=RNG)
        assert win_rate(replace(mixed, choose=choose), mixed, rng=RNG).value == pytest.approx(there.value, abs=1e-12)


def test_an_arm_against_itself_is_exactly_one_half() -> None:
    for choose in (None, Best(6), Soft(3)):
        arm = pool(TIED, choose=choose)
        found = win_rate(arm, replace(arm, arm="again"), rng=RNG)
        assert (found.value, found.low, found.high, found.kind) == (0.5, 0.5, 0.5, "exact")


def test_own_draws_meet_every_draw_of_the_other() -> None:
    arm, other = pool([[1.0, 3.0]]), pool([[1.0, 2.0, 4.0]], source="else")
    assert win_rate(arm, other, rng=RNG).value == pytest.approx((0.5 + 1 + 1) / 6)
    best = win_rate(replace(arm, choose=Best(2)), other, rng=RNG)
    assert best.value == pytest.approx(2 / 3)
    assert (best.low, best.high) == (None, None)  # one prompt


def test_a_pool_too_small_says_how_many_draws_it_needs() -> None:
    base = pool(TIED, arm="base")
    with pytest.raises(InputError, match=r"at least 8 replies .* \(7 \+ 1\)"):
        win_rate(replace(base, arm="bon", choose=Best(7)), base, rng=RNG)
    with pytest.raises(InputError, match="at least 9"):
        win_rate(replace(base, choose=Best(5)), replace(base, choose=Best(4)), rng=RNG)


def test_other_prompts_and_nan_scores_are_refused() -> None:
    base = pool(TIED)
    with pytest.raises(InputError, match="different prompts"):
        win_rate(base, pool(TIED[:2], source="else"), rng=RNG)
    with pytest.raises(InputError, match="prompt 1, draw 2"):
        win_rate(pool([[1, 2, 3], [1, 2, np.nan]], source="else"), pool([[1, 2, 3]] * 2), rng=RNG)


def test_what_takes_the_best_is_asked_and_not_believed() -> None:
    class Last(Best):
        def __call__(self, scores: np.ndarray) -> np.ndarray:
            return np.eye(len(scores))[-1]

    class Sharp(Soft):
        def __call__(self, scores: np.ndarray) -> np.ndarray:
            return super().__call__(100 * scores)

    assert duel.takes_best(None)
    assert duel.takes_best(Best(1))
    assert duel.takes_best(Best(5))
    assert not duel.takes_best(Soft(5))
    assert not duel.takes_best(Sharp(5))
    assert not duel.takes_best(Last(5))


class Later(Judge):
    """Prefers the draw with the greater number, and has seen what it was asked."""

    name, pairwise = "later", True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score(self, chats: object, replies: object) -> list[float]:
        raise NotImplementedError

    def compare(self, chats: object, left: object, right: object) -> list[float]:
        self.asked = list(zip(left, right, strict=True))
        return [float(np.sign(int(a.split()[1]) - int(b.split()[1])) / 2 + 0.5) for a, b in self.asked]


def test_a_pairwise_judge_sees_draw_i_against_draw_i() -> None:
    judge, arm, other = Later(), pool([[0.0, 0.0]] * 2), pool([[0.0, 0.0, 0.0]] * 2, source="else")
    found = win_rate(arm, other, judge, rng=RNG)
    assert judge.asked == [("0 0", "0 0"), ("0 1", "0 1"), ("1 0", "1 0"), ("1 1", "1 1")]
    assert found.value == 0.5
    assert found.kind == "estimate"


def test_a_pairwise_judge_of_a_reranker_sees_answers_and_never_one_draw_twice() -> None:
    """Scores rise with the number of the draw, so the judge agrees with them and the rate is 3 / 4."""
    judge, base = Later(), pool([np.arange(12.0)] * 200)
    found = win_rate(replace(base, choose=_Fast(3)), base, judge, rng=RNG)
    assert all(left != right for left, right in judge.asked)
    assert found.value == pytest.approx(0.75, abs=0.03)
    assert win_rate(base, replace(base, choose=_Fast(3)), judge, rng=RNG).value == pytest.approx(0.25, abs=0.03)


class _Fast(Best):
    """Best-of-n of distinct scores, by ranks."""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        edges = (np.argsort(np.argsort(scores))[:, None] + np.array([1, 0]) - np.arange(self.n)[:, None, None]).clip(0)
        ways = edges.prod(axis=0)
        return (ways[:, 0] - ways[:, 1]) / (ways[:, 0] - ways[:, 1]).sum()


def test_a_pairwise_verdict_outside_0_and_1_is_refused() -> None:
    class Wild(Later):
        def compare(self, chats: object, left: list[str], right: object) -> list[float]:
            return [2.0] * len(left)

    with pytest.raises(InputError, match="verdicts"):
        win_rate(pool([[0.0]]), pool([[0.0]], source="else"), Wild(), rng=RNG)
