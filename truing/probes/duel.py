"""Two arms that share one pool: the chance that one beats the other, without a draw ever meeting itself.

An arm that reranks picks from a random subset ``S`` of the pool, its opponent from a random subset ``T``. In life
the two are drawn apart, so here every *disjoint* pair of subsets counts once. That makes the mean an unbiased
U-statistic (Hoeffding 1948) of the chance that a fresh answer of the one beats a fresh answer of the other. With
the base as the opponent, ``T`` is a single draw, and this is leaving that draw out of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.rng import Rng

if TYPE_CHECKING:
    from truing.probes.pool import Array

    Choose = Callable[[Array], Array] | None

MOST = 2048  # subsets of the opponent that are all visited; of more, this many are drawn at random


def beats(left: Array, right: Array) -> Array:
    """``(N, M)``: 1 where a score of ``left`` is above one of ``right``, 0.5 where they are equal, else 0."""
    return np.greater.outer(left, right) + 0.5 * np.equal.outer(left, right)


def looks_at(choose: Choose) -> int | None:
    """How many draws an arm looks at before it answers: 1 for a plain policy, None where it does not say."""
    if choose is None:
        return 1
    n = getattr(choose, "n", None)
    return int(n) if n is not None else None


def takes_best(choose: Choose) -> bool:
    """Whether an arm answers with the best of the ``n`` draws that it looks at: best-of-n and nothing else.

    Asked, not declared: of ``n`` scores that differ by a hair, it must put all its weight on the highest.
    """
    n = looks_at(choose)
    if choose is None or n is None:
        return choose is None
    hairs = np.roll(np.arange(n, dtype=np.float64) * 1e-6, n // 2)
    return bool(np.asarray(choose(hairs))[hairs.argmax()] > 1 - 1e-12)


def same_choice(arm: Choose, other: Choose) -> bool:
    """Whether two arms answer alike, given the same pool."""
    alike = looks_at(arm) is not None and looks_at(arm) == looks_at(other) and takes_best(arm) and takes_best(other)
    return arm is other or bool(arm == other) or alike


def draws_needed(arm: Choose, other: Choose) -> int:
    """The smallest pool in which both can be drawn apart."""
    return (looks_at(arm) or 1) + (looks_at(other) or 1)


def check_size(draws: int, arm: Choose, other: Choose, names: tuple[str, str]) -> None:
    """Refuse a pool in which the two arms cannot be drawn apart.

    Raises:
        InputError: the pool is too small, or neither arm says how many draws it looks at.
    """
    place, need = f"win rate of {names[0]} against {names[1]}", draws_needed(arm, other)
    if looks_at(arm) is None and looks_at(other) is None:
        raise bad(place, "neither says how many draws it looks at, so they cannot be drawn apart")
    if draws < need:
        fact = f"both answer from one pool of {draws} draws a prompt, but only {need} keep them apart"
        mend = f"Draw at least {need} replies to a prompt ({looks_at(arm) or 1} + {looks_at(other) or 1})."
        raise bad(place, fact, mend)


def joint_of_best(draws: int, n: int, m: int) -> Array:
    """How likely best-of-n answers with one rank and best-of-m, from other draws, with another.

    For rank ``i`` above rank ``j`` (0 is the worst): all of ``T`` lies at or below ``j``, and ``S`` takes its
    other ``n - 1`` from the ``i - m`` draws below ``i`` that are not in ``T``:
    ``C(j, m-1) / C(N, m) * C(i-m, n-1) / C(N-m, n)``. The other half by exchanging the roles.

    Args:
        draws: ``N``, the size of the pool, >= n + m.
        n, m: how many draws each arm looks at, >= 1.

    Returns: ``(N, N)``, rank of the first by rank of the second; sums to 1, the diagonal is 0.
    """

    def top(chosen: int, lost: int) -> Array:
        """Chance that a rank is the best of ``chosen``, where ``lost`` draws below it are taken already."""
        ways = math.comb(draws - lost, chosen)
        return np.array([math.comb(max(rank - lost, 0), chosen - 1) / ways for rank in range(draws)])

    first_wins = np.tril(np.outer(top(n, m), top(m, 0)), -1)
    second_wins = np.triu(np.outer(top(n, 0), top(m, n)), 1)
    return first_wins + second_wins


def win_of_best(scores: Array, joint: Array) -> float:
    """Chance that the first arm of ``joint`` beats the second on one prompt, ties half.

    Args:
        scores: ``(N,)``. Draws of equal score may take either rank: they are worth the same.
        joint: ``(N, N)`` of :func:`joint_of_best`.
    """
    ranked = np.sort(scores)
    return float((joint * beats(ranked, ranked)).sum())


def win_of_any(scores: Array, arm: Choose, other: Choose, rng: Rng) -> float:
    """The same for any two ways to choose, by visiting the subsets of the one that looks at fewer draws.

    Exact where there are at most 2,048 of them; else a mean over as many drawn at random, still unbiased.
    """
    if (looks_at(other) or math.inf) > (looks_at(arm) or math.inf):
        return 1.0 - win_of_any(scores, other, arm, rng)
    size = looks_at(other) or 1
    wins = []
    for taken in _subsets(len(scores), size, rng):
        theirs, ours = scores[taken], np.delete(scores, taken)
        wins.append(weights(arm, ours) @ beats(ours, theirs) @ weights(other, theirs))
    return float(np.mean(wins))


def weights(choose: Choose, scores: Array) -> Array:
    """``(N,)``: how likely each of these draws is to be the answer."""
    return np.full(len(scores), 1.0 / len(scores)) if choose is None else np.asarray(choose(scores), dtype=np.float64)


def one_pair(scores: Array, arm: Choose, other: Choose, random: np.random.Generator) -> tuple[int, int]:
    """One answer of each arm, as indices into the pool: a draw from the distribution that the above sums over."""
    if (looks_at(other) or math.inf) > (looks_at(arm) or math.inf):
        second, first = one_pair(scores, other, arm, random)
        return first, second
    taken = random.permutation(len(scores))[: looks_at(other) or 1]
    left = np.delete(np.arange(len(scores)), taken)
    first = random.choice(left, p=weights(arm, scores[left]))
    return int(first), int(random.choice(taken, p=weights(other, scores[taken])))


def _subsets(draws: int, size: int, rng: Rng) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    if math.comb(draws, size) <= MOST:
        for chosen in combinations(range(draws), size):
            yield np.array(chosen, dtype=np.int64)
    else:
        generator = rng.numpy()
        for _ in range(MOST):
            yield generator.permutation(draws)[:size]
