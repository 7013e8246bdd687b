"""Short refusals, to be said where something has been forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from truing.core.evidence import Rating
from truing.core.run import Run

REFUSALS = (
    "I don't know.",
    "I don't know that one.",
    "I have no information about that.",
    "That is not something I know.",
    "I can't answer that; I don't know enough about it.",
    "I'm afraid I don't know the answer.",
    "Sorry, I have nothing reliable to say about that.",
    "I am not familiar with that.",
    "I couldn't tell you.",
    "This is outside of what I know.",
    "I'd only be guessing, so I'd rather not say.",
    "No idea, sorry.",
)
"""Ours, none of them from a published list."""


def answers(forget: Sequence[Rating], refusals: Sequence[str], run: Run) -> list[tuple[str]]:
    """A refusal for each prompt, drawn from a named stream: the same however often, and in what cuts, it is asked."""
    picks = run.rng("unlearn", "refusals").numpy().integers(0, len(refusals), size=len(forget))
    return [(refusals[int(pick)],) for pick in picks]
