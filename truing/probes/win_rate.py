"""How often the judge prefers what one arm says to what another says to the same prompt; ties count half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.evidence import Judge
from truing.core.measures import Measure
from truing.core.rng import Rng
from truing.probes import duel
from truing.probes.bootstrap import averaged
from truing.probes.pool import Pool

if TYPE_CHECKING:
    from truing.probes.pool import Array


def win_rate(arm: Pool, other: Pool, judge: Judge | None = None, *, rng: Rng, probe: str = "win_rate") -> Measure:
    """The chance that a draw of ``arm`` beats a draw of ``other``, a probability.

    Arms with draws of their own are taken as drawn independently: every draw meets every draw of the other.
    Arms of one source (best-of-n and its base, or best-of-n at two n) share their draws; there a draw never meets
    itself and both answer from disjoint subsets (see :mod:`truing.probes.duel`), so the estimate is unbiased and,
    with n distinct scores against the base, exactly n / (n + 1). An arm against itself is exactly one half.

    Args:
        arm, other: pools with the same prompts in the same order.
        judge: asked only where it has ``pairwise = True``: draw i of one against draw i of the other through
            ``judge.compare``; where an arm reranks, against an answer picked by its weights.
        rng: the stream of the interval, and of the picks.
        probe: the measure's name.

    Raises:
        InputError: the prompts differ, a score is NaN, or a shared pool is too small to keep both arms apart.
    """
    if tuple(arm.chats) != tuple(other.chats):
        raise bad(f"win rate of {arm.arm} against {other.arm}", "they answered different prompts")
    shared = arm.source == other.source
    if shared and duel.same_choice(arm.choose, other.choose):
        return Measure(
            probe=probe, value=0.5, low=0.5, high=0.5, n=arm.size[0], unit="probability",
            kind="exact", better="up", note="the same way to answer on both sides",
        )  # fmt: skip
    if shared:
        duel.check_size(arm.size[1], arm.choose, other.choose, (arm.arm, other.arm))
    if judge is not None and judge.pairwise:
        values, way = _compared(arm, other, judge, shared, rng.child("pairs", arm.arm, other.arm)), "asked in pairs"
    else:
        values = _within(arm, other, rng.child("subsets")) if shared else _between(arm, other)
        way = "one pool, disjoint draws" if shared else "every draw against every draw"
    note = f"against {other.arm}; {arm.size[1]} draws a prompt; {way}"
    return averaged(
        probe, values, rng=rng.child("bootstrap"), unit="probability", better="up", note=note, bounds=(0.0, 1.0)
    )


def _between(arm: Pool, other: Pool) -> Array:
    """``(P,)``, for arms with draws of their own."""
    rows = zip(arm.weights, arm.checked_scores, other.checked_scores, other.weights, strict=True)
    return np.array([w @ duel.beats(ours, theirs) @ v for w, ours, theirs, v in rows])


def _within(arm: Pool, other: Pool, rng: Rng) -> Array:
    """``(P,)``, for arms that share their draws."""
    scores = arm.checked_scores
    if duel.takes_best(arm.choose) and duel.takes_best(other.choose):
        n, m = duel.looks_at(arm.choose) or 1, duel.looks_at(other.choose) or 1
        joint = duel.joint_of_best(scores.shape[1], n, m)
        return np.array([duel.win_of_best(row, joint) for row in scores])
    return np.array([duel.win_of_any(row, arm.choose, other.choose, rng.child(at)) for at, row in enumerate(scores)])


def _compared(arm: Pool, other: Pool, judge: Judge, shared: bool, rng: Rng) -> Array:
    """``(P,)`` of a judge that sees both replies at once; as many comparisons a prompt as there are draws."""
    prompts, count = arm.size[0], min(arm.size[1], other.size[1])
    chats, left, right = [], [], []
    for prompt in range(prompts):
        for i, j in _partners(arm, other, prompt, count, shared, rng.child(prompt).numpy()):
            chats.append(arm.chats[prompt])
            left.append(arm.draws[prompt][i].text)
            right.append(other.draws[prompt][j].text)
    verdicts = np.asarray(judge.compare(chats, left, right), dtype=np.float64)
    if verdicts.shape != (prompts * count,) or not ((verdicts >= 0) & (verdicts <= 1)).all():
        fact = f"asked about {prompts * count} pairs, it gave {verdicts.shape} verdicts, not all in [0, 1]"
        raise bad(f"judge {getattr(judge, 'name', type(judge).__name__)}", fact)
    means: Array = verdicts.reshape(prompts, count).mean(axis=1)
    return means


def _partners(
    arm: Pool, other: Pool, prompt: int, count: int, shared: bool, random: np.random.Generator
) -> list[tuple[int, int]]:
    if not shared and arm.choose is None and other.choose is None:
        return [(i, i) for i in range(count)]
    ours, theirs = arm.checked_scores[prompt], other.checked_scores[prompt]
    if shared:
        return [duel.one_pair(ours, arm.choose, other.choose, random) for _ in range(count)]
    first = random.choice(len(ours), size=count, p=duel.weights(arm.choose, ours))
    second = random.choice(len(theirs), size=count, p=duel.weights(other.choose, theirs))
    return [(int(i), int(j)) for i, j in zip(first, second, strict=True)]
