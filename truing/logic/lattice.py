"""All losses over some atoms, ordered by how much they ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import isclose, log

from truing.logic.structure import Structure, stricter
from truing.logic.worlds import FALSE, Proposition, from_worlds


def propositions(atoms: Sequence[str] = ("W", "L")) -> list[Proposition]:
    """Every proposition over these atoms: ``2^(2^n)``."""
    worlds = [{name for name, value in zip(atoms, values, strict=True) if value}
              for values in product((True, False), repeat=len(atoms))]  # fmt: skip
    return [
        from_worlds((world for k, world in enumerate(worlds) if number >> k & 1), atoms)
        for number in range(1 << len(worlds))
    ]


def structures(atoms: Sequence[str] = ("W", "L")) -> Iterator[Structure]:
    """Every structure over these atoms, ``4^(2^n)``: a world is on top, at the bottom, on both sides or on neither."""
    every = propositions(atoms)
    return (Structure(top, bottom) for top in every for bottom in every)


def is_loss(structure: Structure) -> bool:
    """Whether its log-ratio is finite and not constantly 0."""
    return FALSE not in (structure.top, structure.bottom) and structure.top != structure.bottom


def preferences() -> list[Structure]:
    """The sixteen structures over W and L that prefer the chosen reply.

    "Only the chosen one is valid" is on top alone, "only the rejected one is" at the bottom alone; "both are" and
    "neither is" may each be on top, at the bottom, on both sides or on neither. They are all structures between
    ``ce_unlikelihood``, the strictest, and ``implication``.
    """
    best, worst = from_worlds([{"W"}], ("W", "L")), from_worlds([{"L"}], ("W", "L"))
    return [one for one in structures()
            if best.entails(one.top & ~one.bottom) and worst.entails(one.bottom & ~one.top)]  # fmt: skip


def hasse(every: Sequence[Structure]) -> list[tuple[int, int]]:
    """The edges of the order's diagram: ``(i, j)`` where ``i`` is stricter than ``j`` and no other is between.

    Args:
        every: structures that differ from each other.
    """
    above = [
        sum(1 << j for j, other in enumerate(every) if i != j and stricter(one, other)) for i, one in enumerate(every)
    ]
    edges = []
    for i, reached in enumerate(above):
        further = 0
        for j in range(len(every)):
            further |= above[j] if reached >> j & 1 else 0
        edges += [(i, j) for j in range(len(every)) if (reached & ~further) >> j & 1]
    return edges


def recognise(ratio: Callable[[float, float], float]) -> list[Structure]:
    """The structures over W and L that have this log-ratio; several, where a factor cancels. Decompiles code.

    Args:
        ratio: the log-ratio at probabilities of the chosen and of the rejected reply, each in (0, 1), nats.

    Example:
        >>> from math import log
        >>> [str(one) for one in recognise(lambda w, l: log(w * (1 - l)) - log(l * (1 - w)))]
        ['W & ~L over ~W & L']
    """
    points = [(0.31, 0.17), (0.12, 0.83), (0.74, 0.55)]
    wanted = [ratio(*point) for point in points]
    return [
        one
        for one in structures()
        if is_loss(one)
        and all(
            isclose(_log_ratio(one, *point), value, abs_tol=1e-6) for point, value in zip(points, wanted, strict=True)
        )
    ]


def _log_ratio(structure: Structure, chosen: float, rejected: float) -> float:
    chance = {"W": chosen, "L": rejected}
    return log(structure.top.weight(chance)) - log(structure.bottom.weight(chance))
