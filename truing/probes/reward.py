"""What the judge gives: the mean score, and how many replies meet everything that was asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from truing.core.errors import bad
from truing.core.evidence import Judge
from truing.core.measures import Measure
from truing.core.policy import Chat
from truing.core.rng import Rng
from truing.probes.bootstrap import averaged
from truing.probes.pool import Pool, each_draw

Satisfied = Callable[[Sequence[Chat], Sequence[str]], list[bool]]


def reward(arm: Pool, judge: Judge | None = None, *, rng: Rng) -> list[Measure]:
    """The weighted mean score of a prompt's draws, averaged over prompts, in the judge's own scale.

    A judge with ``satisfied(chats, replies) -> list[bool]`` gives a second measure of that name: the share of
    replies that meet every constraint.

    Raises:
        InputError: a score that is not finite, or a judge that answers for another number of replies.
    """
    weights, bootstrap = arm.weights, rng.child("bootstrap")
    note = f"mean score by {name}" if (name := getattr(judge, "name", "")) else "mean score"
    values = (weights * arm.checked_scores).sum(axis=1)
    found = [averaged("reward", values, rng=bootstrap, unit="", better="up", note=note)]
    satisfied: Satisfied | None = getattr(judge, "satisfied", None)
    if satisfied is None:
        return found
    chats, draws = each_draw(arm)
    met = np.asarray(satisfied(chats, [draw.text for draw in draws]), dtype=np.float64)
    if met.shape != (len(draws),):
        raise bad("judge", f"asked about {len(draws)} replies, it said of {met.shape} whether they satisfy")
    share = (weights * met.reshape(weights.shape)).sum(axis=1)
    return [
        *found,
        averaged("satisfied", share, rng=bootstrap, unit="probability", better="up", bounds=(0.0, 1.0)),
    ]
