"""Preference structures: what a loss wants true, and what it wants false."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from truing.core.errors import bad
from truing.logic.simplify import bracketed, formula, monomial
from truing.logic.worlds import ATOMS, FALSE, TRUE, Proposition, atom


@dataclass(frozen=True)
class Structure:
    """Two propositions; the loss is a decreasing function of the log-ratio of their weights.

    Richardson et al. 2024, arXiv:2412.17696. The same is told by a core formula P, a condition P_C under which
    worlds are counted at all, and P_A, in which they are counted on either side:
    ``top = (P | P_A) & P_C``, ``bottom = (~P | P_A) & P_C``.

    Attributes:
        top: its weight is the numerator.
        bottom: its weight is the denominator.

    Example:
        >>> W, L = atom("W"), atom("L")
        >>> loss = Structure(W, L)
        >>> str(loss), loss.sentence, loss.ratio
        ('W over L', 'L -> W given W | L either W & L', 'w / l')
    """

    top: Proposition
    bottom: Proposition

    @classmethod
    def of(cls, core: Proposition, given: Proposition = TRUE, either: Proposition = FALSE) -> Structure:
        """From the core formula and its two constraints."""
        return cls((core | either) & given, (~core | either) & given)

    @property
    def core(self) -> Proposition:
        """P: wherever the bottom is true, the top is. With the constraints it gives top and bottom back."""
        return ~self.bottom | self.top

    @property
    def given(self) -> Proposition:
        """P_C: the worlds that are counted."""
        return self.top | self.bottom

    @property
    def either(self) -> Proposition:
        """P_A: the worlds that are counted on both sides."""
        return self.top & self.bottom

    @property
    def support(self) -> tuple[str, ...]:
        """The atoms on which top or bottom depends."""
        return tuple(name for name in ATOMS if name in self.top.support or name in self.bottom.support)

    @property
    def sentence(self) -> str:
        """Core, condition and addition in words that :func:`read` reads; constraints that say nothing are left out."""
        told = formula(self.core)
        told += "" if self.given == TRUE else f" given {formula(self.given)}"
        return told + ("" if self.either == FALSE else f" either {formula(self.either)}")

    def __str__(self) -> str:
        return f"{formula(self.top)} over {formula(self.bottom)}"

    @property
    def ratio(self) -> str:
        """The ratio of weights as a formula of chances."""
        return f"{bracketed(self.top)} / {bracketed(self.bottom, products=True)}"

    @property
    def is_monomial(self) -> bool:
        """Whether the ratio is one of products, so that its logarithm is a sum of log-odds and log-probabilities."""
        return monomial(self.top) is not None and monomial(self.bottom) is not None

    def reduced(self) -> Structure:
        """Without the literals that top and bottom share: they cancel in the ratio."""
        top, bottom = self.top, self.bottom
        for name in ATOMS:
            for value in (True, False):
                literal = atom(name) if value else ~atom(name)
                if top != FALSE and bottom != FALSE and top.entails(literal) and bottom.entails(literal):
                    top, bottom = top.given(name, value), bottom.given(name, value)
        return Structure(top, bottom)

    def reads(self, name: str) -> bool:
        """Whether the ratio depends on the chance of an atom: told exactly, in fractions, at a point of no symmetry."""
        if FALSE in (self.top, self.bottom):
            return False
        found = set()
        for chance in (Fraction(2, 7), Fraction(3, 5), Fraction(8, 9)):
            point = {other: Fraction(1, prime) for other, prime in zip(ATOMS, PRIMES, strict=True)} | {name: chance}
            found.add(self.top.weight(point) / self.bottom.weight(point))
        return len(found) > 1

    def with_reference(self) -> Structure:
        """The same loss over a base: Rl joins the top and Rw the bottom, so that ``log r_l / r_w`` is added."""
        return Structure(self.top & atom("Rl"), self.bottom & atom("Rw"))

    def with_margin(self) -> Structure:
        """The same loss less a margin: Ml joins the top and Mw the bottom, ``log m_l / m_w = -gamma``."""
        return Structure(self.top & atom("Ml"), self.bottom & atom("Mw"))

    def checked(self, place: str) -> Structure:
        """Itself, if it is a loss.

        Raises:
            InputError: a side is never true, both are the same, or the ratio does not depend on the model.
        """
        told = f"{self} is no loss"
        for side, said in (("top", self.top), ("bottom", self.bottom)):
            if said == FALSE:
                raise bad(place, f"{told}: its {side} is true in no world, and the log-ratio infinite", _WIDEN)
        if self.top == self.bottom:
            raise bad(place, f"{told}: top and bottom say the same, and the log-ratio is 0", "Let them differ.")
        if not (self.reads("W") or self.reads("L")):
            raise bad(place, f"{told}: the ratio depends on neither W nor L", "Let top or bottom speak of the model.")
        return self


PRIMES = (3, 5, 7, 11, 13, 17)
_WIDEN = "Weaken what it demands, or its condition."


def stricter(one: Structure, other: Structure) -> bool:
    """Whether the first never asks less: ``top`` entails the other's, and ``bottom`` is entailed by the other's.

    Then its log-ratio is nowhere larger and its loss nowhere smaller. A partial order; every structure is as strict
    as itself.
    """
    return one.top.entails(other.top) and other.bottom.entails(one.bottom)


def rank(structure: Structure) -> int:
    """How far up the order over W and L it stands, 0 (nothing over everything) to 8 (everything over nothing).

    The worlds on top, and those that are not at the bottom: one more of either is one step.

    Raises:
        InputError: it speaks of other atoms.
    """
    if not set(structure.support) <= {"W", "L"}:
        raise bad(
            str(structure), "it speaks of more than W and L", "Ask for the rank of a loss without base and margin."
        )
    return len(list(structure.top.worlds(("W", "L")))) + 4 - len(list(structure.bottom.worlds(("W", "L"))))
