"""Formulas, the worlds they are true in, and the short way to say them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import pytest

from truing.core.errors import InputError
from truing.logic import (
    ATOMS,
    FALSE,
    TRUE,
    Proposition,
    atom,
    formula,
    from_worlds,
    monomial,
    polynomial,
    prime_implicants,
    propositions,
    read,
    read_proposition,
)  # fmt: skip

TWO = ("W", "L")


def truth(text: str, meant: Callable[[bool, bool], bool]) -> bool:
    """Whether a formula over W and L says what a Python function does."""
    worlds = [{name for name, value in zip(TWO, values, strict=True) if value}
              for values in product((True, False), repeat=2) if meant(*values)]  # fmt: skip
    return read_proposition(text) == from_worlds(worlds, TWO)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("W", lambda p, q: p),
        ("~W", lambda p, q: not p),
        ("¬¬ not !W", lambda p, q: p),
        ("W & L", lambda p, q: p and q),
        ("W | L", lambda p, q: p or q),
        ("W xor L", lambda p, q: p != q),
        ("W -> L", lambda p, q: not p or q),
        ("W <-> L", lambda p, q: p == q),
        ("W -> L -> W", lambda p, q: not p or (not q or p)),
        ("(W -> L) -> W", lambda p, q: not (not p or q) or p),
        ("W | L & ~W", lambda p, q: p or (q and not p)),
        ("W & L xor W | ~L", lambda p, q: ((p and q) != p) or not q),
        ("~W -> L <-> W | L", lambda p, q: True),
        ("true & W or false", lambda p, q: p),
    ],
)
def test_signs_mean_what_python_says_they_do(text: str, meant: Callable[[bool, bool], bool]) -> None:
    assert truth(text, meant)


@pytest.mark.parametrize(
    "text", ["L → W ⊕ ¬Rl ∧ (Mw ∨ ⊤) ↔ ⊥", "L => W ^ !Rl && (Mw || true) <=> false", "L->W xor~Rl&(Mw|true)<->false"]
)
def test_every_sign_may_be_written_in_several_ways(text: str) -> None:
    assert read_proposition(text) == read_proposition("L -> W xor not Rl and (Mw or true) <-> false")


@pytest.mark.parametrize(
    ("text", "column", "told", "mend"),
    [
        ("W & (L", 7, "it ends where a sign should stand", "Close the bracket of column 5"),
        ("W & ? L", 5, "'?' is no proposition and no sign", "Signs are"),
        ("W L", 3, "'L' stands where a sign or the end should", "TOP over BOTTOM"),
        ("W over", 7, "it ends where a proposition should stand", "Write one of W, L"),
        ("given W", 1, "'given' stands where a proposition should", "Write one of W, L"),
        ("W over L given W", 10, "'given' stands where a sign or the end", "TOP over BOTTOM"),
        ("W & Rq", 5, "'Rq' is no proposition", "Known: L, Ml, Mw, Rl, Rw, W"),
        ("W givn L", 3, "'givn' is no proposition", "Did you mean 'given'?"),
        ("", 1, "it ends where a proposition should stand", "Write one of W, L"),
        ("W )", 3, "')' stands where a sign or the end should", "TOP over BOTTOM"),
        ("(" * 2000 + "W", 51, "more than 50 brackets", "Take some away"),
        ("__import__('os')", 1, "'__import__' is no proposition", ""),
    ],
)
def test_what_cannot_be_read_is_told_with_its_column_and_what_mends_it(
    text: str, column: int, told: str, mend: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    (fault,) = caught.value.faults
    assert fault.place.startswith(f"column {column} of ")
    assert told in fault.fact
    assert mend in fault.mend


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no loss has that name\. Did you mean 'orpo'"):
        read("orppo")


def test_thousands_of_signs_do_not_end_the_stack() -> None:
    assert read_proposition("~" * 5001 + "W") == ~atom("W")
    assert read_proposition(" -> ".join(["W"] * 5001)) == TRUE


@pytest.mark.parametrize("atoms", [("W", "L"), ("W", "Rl", "Ml")])
def test_every_proposition_over_a_few_atoms_is_read_back_from_its_formula(atoms: tuple[str, ...]) -> None:
    every = propositions(atoms)
    assert len(set(every)) == 2**2 ** len(atoms)
    assert [read_proposition(formula(one)) for one in every] == every


def test_formulas_over_six_atoms_are_read_back() -> None:
    source = random.Random(0)
    for _ in range(30):
        said = Proposition(source.getrandbits(64))
        assert said.support == ATOMS
        assert read_proposition(formula(said)) == said


def test_the_sixteen_propositions_are_said_shortly() -> None:
    """No way with fewer signs exists for any of them."""
    wanted = {
        "true", "false", "W", "L", "~W", "~L", "W & L", "W & ~L", "~W & L", "~W & ~L", "W | L", "~W | ~L", "L -> W",
        "W -> L", "W xor L", "W <-> L",
    }  # fmt: skip
    assert {formula(one) for one in propositions()} == wanted


def test_prime_implicants_of_a_function_that_needs_not_all_of_them() -> None:
    """The textbook's cycle: six prime implicants of two literals, of which three suffice, in two ways."""
    cycle = read_proposition("W & ~L | L & ~Rw | Rw & ~W")
    assert len(prime_implicants(cycle)) == 6
    assert {frozenset(cube) for cube in prime_implicants(cycle)} >= {frozenset({("W", True), ("L", False)})}
    assert (formula(cycle).count("&"), formula(cycle).count(" | ")) == (3, 2)


def test_the_weight_is_the_sum_over_worlds_by_brute_force() -> None:
    """Over all 64 worlds of six atoms, not only those of the atoms on which it depends."""
    source = random.Random(1)
    for said in [Proposition(source.getrandbits(64)) for _ in range(20)] + [
        read_proposition("W & ~Rl | Mw"),
        FALSE,
        TRUE,
    ]:
        chance = {name: source.random() for name in ATOMS}
        total = 0.0
        for values in product((True, False), repeat=6):
            term = float(said.true_in([name for name, value in zip(ATOMS, values, strict=True) if value]))
            for name, value in zip(ATOMS, values, strict=True):
                term *= chance[name] if value else 1 - chance[name]
            total += term
        assert said.weight(chance) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("atoms", [("W", "L"), ("W", "L", "Rw")])
def test_the_polynomial_that_is_written_is_the_weight(atoms: tuple[str, ...]) -> None:
    """Read as Python, with a sign of multiplication where factors stand side by side."""
    chance = {"W": 0.31, "L": 0.17, "Rw": 0.83}
    names = {"w": 0.31, "l": 0.17, "r_w": 0.83, "__builtins__": {}}
    for one in propositions(atoms):
        text = polynomial(one)
        for sign in (" + ", " - "):
            text = text.replace(sign, sign.strip())
        assert eval(text.replace(" ", "*"), names) == pytest.approx(one.weight(chance), abs=1e-12), polynomial(one)


def test_a_conjunction_is_a_monomial_and_nothing_else_is() -> None:
    assert monomial(read_proposition("W & ~L")) == (("W", True), ("L", False))
    assert monomial(read_proposition("W | W & L")) == (("W", True),)
    assert monomial(TRUE) == ()
    assert all(monomial(read_proposition(text)) is None for text in ("W | L", "W xor L", "L -> W", "false"))
