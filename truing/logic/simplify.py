"""The shortest way to say a proposition: prime implicants (Quine 1952, McCluskey 1956), and a polynomial of chances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

from truing.logic.worlds import ATOMS, EVERY, FALSE, TRUE, Proposition, atom

Cube = tuple[tuple[str, bool], ...]
"""Literals that are all true: atoms with their values."""
EXACT = 4
"""Atoms up to which the fewest implicants are searched for; beyond, each next one covers the most that is left."""


def cube_of(cube: Cube) -> Proposition:
    """The proposition that all of its literals are true."""
    whole = TRUE
    for name, value in cube:
        whole &= atom(name) if value else ~atom(name)
    return whole


def prime_implicants(proposition: Proposition) -> list[Cube]:
    """All cubes that entail it and would not if a literal were left out; short ones first."""
    names = proposition.support
    drawn = [tuple((n, v) for n, v in zip(names, values, strict=True) if v is not None)
             for values in product((None, True, False), repeat=len(names))]  # fmt: skip
    found: list[Cube] = []
    for cube in sorted(drawn, key=len):
        said = cube_of(cube)
        if said.entails(proposition) and not any(set(prime) <= set(cube) for prime in found):
            found.append(cube)
    return found


def sum_of_products(proposition: Proposition) -> list[Cube]:
    """Few prime implicants that together say the same: the fewest literals up to four atoms."""
    primes = [(cube, cube_of(cube).table) for cube in prime_implicants(proposition)]
    if len(proposition.support) <= EXACT:
        return _fewest(proposition.table, primes)
    left = proposition.table
    taken: list[Cube] = []
    while left:
        cube, table = max(primes, key=lambda prime: ((prime[1] & left).bit_count(), -len(prime[0])))
        left, taken = left & ~table, [*taken, cube]
    needed = list(taken)
    for cube in taken:  # what was taken early may have been covered since
        others = [cube_of(other).table for other in needed if other != cube]
        if not proposition.table & ~_union(others):
            needed.remove(cube)
    return needed


def _union(tables: Sequence[int]) -> int:
    whole = 0
    for table in tables:
        whole |= table
    return whole


def _fewest(left: int, primes: Sequence[tuple[Cube, int]]) -> list[Cube]:
    if not left:
        return []
    lowest = left & -left
    ways = [[cube, *_fewest(left & ~table, primes)] for cube, table in primes if table & lowest]
    return min(ways, key=lambda way: (sum(map(len, way)), len(way)))


def _literal(name: str, value: bool) -> str:
    return name if value else f"~{name}"


@cache
def formula(proposition: Proposition) -> str:
    """A short formula for it, which :func:`read_proposition` reads back.

    Example:
        >>> from truing.logic.parse import read_proposition
        >>> formula(read_proposition("(W & L) | (W & ~L & Rl) | (W & ~Rl)"))
        'W'
        >>> formula(read_proposition("~(L & ~W)"))
        'L -> W'
    """
    if proposition in (TRUE, FALSE):
        return "true" if proposition == TRUE else "false"
    names = proposition.support
    if len(names) == 2 and proposition.table.bit_count() * 2 == EVERY.bit_count():
        return f"{names[0]} {'xor' if proposition == atom(names[0]) ^ atom(names[1]) else '<->'} {names[1]}"
    either, neither = (
        sorted(sum_of_products(said), key=lambda cube: (len(cube), [ATOMS.index(name) for name, _ in cube]))
        for said in (proposition, ~proposition)
    )
    if len(neither) == 1 and len(neither[0]) > 1:
        reasons = [name for name, value in neither[0] if value]
        results = [name for name, value in neither[0] if not value]
        if reasons and results:
            return f"{' & '.join(reasons)} -> {' | '.join(results)}"
    if sum(map(len, neither)) < sum(map(len, either)):
        clauses = [" | ".join(_literal(name, not value) for name, value in cube) for cube in neither]
        return " & ".join(f"({clause})" if " " in clause and len(clauses) > 1 else clause for clause in clauses)
    return " | ".join(" & ".join(_literal(*literal) for literal in cube) for cube in either)


def monomial(proposition: Proposition) -> Cube | None:
    """Its literals where it is their conjunction, so that its weight is a product; else None."""
    cube = tuple((name, True) if not proposition.given(name, False).table else (name, False)
                 for name in proposition.support)  # fmt: skip
    return cube if cube_of(cube) == proposition else None


def polynomial(proposition: Proposition) -> str:
    """Its weight in the atoms' chances: ``w``, ``l``, ``r_w``, ...

    Example:
        >>> W, L = atom("W"), atom("L")
        >>> polynomial(W & ~L), polynomial(~W | L), polynomial(W ^ L)
        ('w (1-l)', '1 - w (1-l)', 'w (1-l) + (1-w) l')
    """
    product_of, lacking = monomial(proposition), monomial(~proposition)
    if product_of is not None and (lacking is None or product_of[0][1]):  # 1 - w needs no brackets
        return _product(product_of)
    if proposition == FALSE:
        return "0"
    if lacking is not None:
        return f"1 - {_product(lacking)}"
    name = proposition.support[0]
    rests = [(value, proposition.given(name, value)) for value in (True, False)]
    return " + ".join(
        _product(((name, value),)) + ("" if rest == TRUE else f" {bracketed(rest)}")
        for value, rest in rests if rest != FALSE
    )  # fmt: skip


def bracketed(proposition: Proposition, *, products: bool = False) -> str:
    """Its polynomial as a factor: in brackets where it is a sum, on request also where it is a product."""
    cube = monomial(proposition)
    if cube is not None and (len(cube) < 2 or not products):
        return _product(cube)
    return f"({polynomial(proposition)})"


def _product(cube: Cube) -> str:
    letters = [(f"{name[0].lower()}_{name[1]}" if len(name) > 1 else name.lower(), value) for name, value in cube]
    return " ".join(letter if value else f"(1-{letter})" for letter, value in letters) or "1"
