"""What an arm cost to make and costs to ask."""

from __future__ import annotations

from dataclasses import dataclass

from truing.core.measures import Measure


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was spent. None is what nobody counted, and is left out.

    Attributes:
        seconds: to make the arm, wall clock, its own steps only.
        memory_bytes: peak of the process (and of its accelerator) while the arm was made.
        trained_parameters: numbers that training may have changed.
        tokens_per_reply: tokens generated for each reply that is given; n times a reply's for best-of-n.
        parameters, multiplications: of an arm that is smaller or larger than its base: the numbers in its weights, and
            multiplications a token in the layers that its method is about.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    trained_parameters: int | None = None
    tokens_per_reply: float | None = None
    parameters: float | None = None
    multiplications: float | None = None


def cost(spent: Spent) -> list[Measure]:
    """``cost.seconds``, ``cost.tokens``, ``cost.memory``, ``cost.trained`` and, where the size is not the base's,
    ``cost.parameters`` and ``cost.multiplications``: counted once, so without an interval."""
    rows = (
        ("cost.seconds", spent.seconds, "s", "wall clock on this machine"),
        ("cost.tokens", spent.tokens_per_reply, "tokens", "generated for each reply that is given"),
        ("cost.memory", spent.memory_bytes, "bytes", "peak while the arm was made, weights included"),
        ("cost.trained", spent.trained_parameters, "parameters", ""),
        ("cost.parameters", spent.parameters, "parameters", "in memory, where it is not the base's number"),
        ("cost.multiplications", spent.multiplications, "a token", "in the layers that the method is about"),
    )
    return [
        Measure(probe=probe, value=float(value), n=1, unit=unit, kind="exact", better="down", note=note)
        for probe, value, unit, note in rows
        if value is not None
    ]
