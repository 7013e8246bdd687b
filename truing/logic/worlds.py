"""Propositions about a pair of replies, each as the set of worlds in which it is true."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import TypeVar

ATOMS = ("W", "L", "Rw", "Rl", "Mw", "Ml")
"""The model deems the chosen reply valid, and the rejected one; the base deems them so; a constant prior does."""
WORLDS = 1 << len(ATOMS)
"""In world ``i`` atom ``k`` is true where bit ``k`` of ``i`` is set."""
EVERY = (1 << WORLDS) - 1
HOLDS = {name: sum(1 << world for world in range(WORLDS) if world >> k & 1) for k, name in enumerate(ATOMS)}
"""Of each atom: the worlds in which it is true."""
Number = TypeVar("Number", float, Fraction)


@dataclass(frozen=True)
class Proposition:
    """A Boolean function of the six atoms: two formulas that say the same are the same proposition.

    Attributes:
        table: bit ``i`` is set where it is true in world ``i``.

    Example:
        >>> W, L = atom("W"), atom("L")
        >>> ~(W & ~L) == ~W | L, W.entails(W | L), (W & L).support
        (True, True, ('W', 'L'))
    """

    table: int

    def __and__(self, other: Proposition) -> Proposition:
        return Proposition(self.table & other.table)

    def __or__(self, other: Proposition) -> Proposition:
        return Proposition(self.table | other.table)

    def __xor__(self, other: Proposition) -> Proposition:
        return Proposition(self.table ^ other.table)

    def __invert__(self) -> Proposition:
        return Proposition(self.table ^ EVERY)

    def entails(self, other: Proposition) -> bool:
        """Whether the other is true wherever this one is."""
        return not self.table & ~other.table

    def given(self, name: str, value: bool) -> Proposition:
        """What is left to say once an atom is known: its cofactor."""
        width = 1 << ATOMS.index(name)
        kept = self.table & (HOLDS[name] if value else EVERY ^ HOLDS[name])
        return Proposition(kept | (kept >> width if value else kept << width))

    @property
    def support(self) -> tuple[str, ...]:
        """The atoms on which it depends, in their order."""
        return tuple(name for name in ATOMS if self.given(name, True) != self.given(name, False))

    def true_in(self, world: Collection[str]) -> bool:
        """Whether it is true where exactly these atoms are."""
        return bool(self.table >> sum(1 << ATOMS.index(name) for name in world) & 1)

    def worlds(self, atoms: Sequence[str] | None = None) -> Iterator[tuple[bool, ...]]:
        """The values of some atoms wherever it is true; by default of those on which it depends.

        Args:
            atoms: at least those on which it depends.
        """
        names = self.support if atoms is None else atoms
        for values in product((True, False), repeat=len(names)):
            if self.true_in([name for name, value in zip(names, values, strict=True) if value]):
                yield values

    def weight(self, chance: Mapping[str, Number]) -> Number | int:
        """Its weighted model count: the sum over its worlds of the product of the atoms' probabilities.

        Args:
            chance: of each atom on which it depends the probability of being true, in [0, 1]; floats or fractions.
        """
        names = self.support
        total: Number | int = 0
        for values in self.worlds():
            term: Number | int = 1
            for name, value in zip(names, values, strict=True):
                term = term * (chance[name] if value else 1 - chance[name])
            total = total + term
        return total


TRUE, FALSE = Proposition(EVERY), Proposition(0)


def atom(name: str) -> Proposition:
    """The proposition that an atom is true."""
    return Proposition(HOLDS[name])


def from_worlds(worlds: Iterable[Collection[str]], atoms: Sequence[str]) -> Proposition:
    """What is true in exactly these worlds, each told by those of ``atoms`` that are true in it.

    Example:
        >>> from_worlds([{"W"}, {"W", "L"}], ("W", "L")) == atom("W")
        True
    """
    whole = FALSE
    for world in worlds:
        one = TRUE
        for name in atoms:
            one &= atom(name) if name in world else ~atom(name)
        whole |= one
    return whole
