"""Structures: known losses, decompiling, the order."""

from __future__ import annotations

import doctest
import math
import random
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from truing.core.errors import InputError
from truing.core.recipe import parse
from truing.logic import (
    ATOMS,
    Proposition,
    Structure,
    from_worlds,
    hasse,
    is_loss,
    known,
    log_ratio,
    name_of,
    preferences,
    rank,
    read,
    recognise,
    stricter,
    structures,
)  # fmt: skip
from truing.logic.picture import picture

EVERY = list(structures())
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "logic.md").read_text(encoding="utf-8")
GRID = [0.02, 0.2, 0.37, 0.5, 0.71, 0.9, 0.99]


def exact(structure: Structure, p: float, q: float) -> float:
    """The log-ratio, summed over worlds in floating point."""
    return math.log(structure.top.weight({"W": p, "L": q}) / structure.bottom.weight({"W": p, "L": q}))


@pytest.mark.parametrize(
    ("text", "ratio", "value"),
    [
        ("ce", lambda p, q: p / (1 - p), -0.8473),
        ("unlikelihood", lambda p, q: (1 - q) / q, 1.3863),
        ("ce_unlikelihood", lambda p, q: p * (1 - q) / (1 - p * (1 - q)), -1.1527),
        ("cpo", lambda p, q: p / q, 0.4055),
        ("orpo", lambda p, q: p * (1 - q) / (q * (1 - p)), 0.5390),
        ("implication", lambda p, q: (1 - q + p * q) / (q - p * q), 1.8153),
    ],
)
def test_known_losses_have_their_closed_forms(text: str, ratio: object, value: float) -> None:
    """At w = 0.3 and l = 0.2, and elsewhere."""
    assert exact(read(text), 0.3, 0.2) == pytest.approx(value, abs=5e-5)
    logps = {"W": torch.tensor([0.3, 0.7]).double().log(), "L": torch.tensor([0.2, 0.9]).double().log()}
    wanted = torch.tensor([math.log(ratio(0.3, 0.2)), math.log(ratio(0.7, 0.9))]).double()  # type: ignore[operator]  # a lambda
    torch.testing.assert_close(log_ratio(read(text), logps), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ce", "W"),
        ("ce_unlikelihood", "W & ~L"),
        ("implication", "L -> W"),
        ("cpo", "L -> W given W | L either W & L"),
        ("orpo", "L -> W given W xor L"),
    ],
)
def test_known_losses_are_decompiled_to_their_sentences(name: str, sentence: str) -> None:
    assert known()[name].sentence == sentence
    assert read(sentence) == known()[name]


def test_decompiling_and_compiling_is_the_identity_on_all_256() -> None:
    """Through propositions, and through the texts of both forms."""
    assert len(set(EVERY)) == 256
    for one in EVERY:
        assert Structure.of(one.core, one.given, one.either) == one
        assert read(one.sentence) == one
        assert read(str(one)) == one


def test_decompiling_and_compiling_is_the_identity_on_random_sets_of_worlds() -> None:
    source = random.Random(3)
    for _ in range(20):
        one = Structure(Proposition(source.getrandbits(64)), Proposition(source.getrandbits(64)))
        assert Structure.of(one.core, one.given, one.either) == one


def test_two_sets_of_worlds_are_a_structure() -> None:
    top = from_worlds([{"W"}], ("W", "L"))
    assert name_of(Structure(top, from_worlds([{"L"}], ("W", "L")))) == "orpo"


def test_a_reference_is_a_conjunct_and_adds_its_log_ratio() -> None:
    """For every loss of one model, whatever the chances."""
    assert known()["cpo"].with_reference() == known()["dpo"] == read("W & Rl over L & Rw")
    assert known()["cpo"].with_margin() == known()["simpo"]
    chance = {"W": 0.4, "L": 0.7, "Rw": 0.2, "Rl": 0.6}
    for one in filter(is_loss, EVERY):
        over = one.with_reference()
        ratio = over.top.weight(chance) / over.bottom.weight(chance)
        assert math.log(ratio) == pytest.approx(exact(one, 0.4, 0.7) + math.log(0.6 / 0.2))
        assert over.with_reference() == over


def test_the_order_is_that_of_the_values() -> None:
    """Along it the log-ratio never falls, for random chances; and where it does not hold, some chances say so."""
    source = random.Random(5)
    points = [(source.random(), source.random()) for _ in range(6)]
    losses = [one for one in EVERY if is_loss(one)]
    assert len(losses) == 210
    values = {one: [exact(one, *point) for point in points] for one in losses}
    pairs = [(a, b) for a in losses for b in losses if a != b and stricter(a, b)]
    assert len(pairs) > 1000
    assert all(low <= high + 1e-9 for a, b in pairs for low, high in zip(values[a], values[b], strict=True))


def test_the_order_is_a_cube_of_eight_dimensions() -> None:
    """Every world is one step on top and one at the bottom: 2^8 corners, 8 * 2^7 edges, each one rank up."""
    edges = hasse(EVERY)
    assert len(edges) == 8 * 2**7
    assert all(rank(EVERY[j]) - rank(EVERY[i]) == 1 for i, j in edges)
    assert [sum(rank(one) == k for one in EVERY) for k in range(9)] == [math.comb(8, k) for k in range(9)]


def test_edges_among_a_few_go_past_those_that_are_left_out() -> None:
    few = [known()[name] for name in ("ce_unlikelihood", "orpo", "cpo", "implication")]
    assert hasse(few) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert hasse(few[::3]) == [(0, 1)]


def test_the_sixteen_preferences_are_all_between_the_strictest_and_implication() -> None:
    low, high = known()["ce_unlikelihood"], known()["implication"]
    between = [one for one in EVERY if stricter(low, one) and stricter(one, high)]
    assert set(between) == set(preferences())
    assert len(between) == 16
    assert len(hasse(between)) == 4 * 2**3


def rises(structure: Structure) -> bool:
    """Whether it nowhere falls with the chosen reply's chance, and nowhere rises with the rejected one's."""
    value = {(p, q): exact(structure, p, q) for p in GRID for q in GRID}
    steps = list(pairwise(GRID))
    up = all(value[high, q] >= value[low, q] - 1e-12 for low, high in steps for q in GRID)
    return up and all(value[p, high] <= value[p, low] + 1e-12 for low, high in steps for p in GRID)


def test_which_losses_prefer_at_every_point() -> None:
    """52 of the 210, 34 of which read both replies; all sixteen preferences are among them."""
    right = {one for one in EVERY if is_loss(one) and rises(one)}
    assert set(preferences()) <= right
    assert len(right) == 52
    assert sum(one.reads("W") and one.reads("L") for one in right) == 34


def test_the_losses_have_186_different_ratios() -> None:
    """Told apart in fractions, at three points."""
    points = [{"W": Fraction(2, 7), "L": Fraction(3, 5)}, {"W": Fraction(8, 9), "L": Fraction(1, 3)},
              {"W": Fraction(5, 11), "L": Fraction(10, 13)}]  # fmt: skip
    losses = [one for one in EVERY if is_loss(one)]
    assert len({tuple(one.top.weight(at) / one.bottom.weight(at) for at in points) for one in losses}) == 186


def test_a_ratio_is_recognised_from_code() -> None:
    found = recognise(lambda p, q: math.log(p / q))
    assert [name_of(one) for one in found if name_of(one)] == ["cpo"]
    assert {one.reduced() for one in recognise(lambda p, q: math.log(p / (1 - p)))} == {read("ce")}


def test_what_cancels_is_taken_out_and_changes_nothing() -> None:
    assert read("W & Rw & ~Ml over L & Rw & ~Ml").reduced() == known()["cpo"]
    source = random.Random(9)
    for one in [read("W & Rw over (L | Rl) & Rw & W"), *filter(is_loss, EVERY)]:
        chance = {name: Fraction(source.randrange(1, 97), 97) for name in ATOMS}
        small = one.reduced()
        assert small.top.weight(chance) / small.bottom.weight(chance) == one.top.weight(chance) / one.bottom.weight(
            chance
        )


def test_what_a_ratio_reads_is_told_also_where_factors_cancel() -> None:
    shared = read("(W xor L) & Rw over (W xor L) & Rl")
    assert [name for name in ATOMS if shared.reads(name)] == ["Rw", "Rl"]
    assert read("W xor L over true").reads("W")  # though not where the rejected reply has a chance of one half
    assert [name for name in ATOMS if known()["simpo"].reads(name)] == ["W", "L", "Mw", "Ml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("W & ~W over L", "its top is true in no world"),
        ("W over L & ~L", "its bottom is true in no world"),
        ("true", "its bottom is true in no world"),
        ("W | ~W & L over L | W", "top and bottom say the same"),
        ("Rw over Rl", "depends on neither W nor L"),
        ("(W xor L) & Rw over (W xor L) & Rl", "depends on neither W nor L"),
    ],
)
def test_what_is_no_loss_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read(text).checked("arms.a[0]")
    assert caught.value.faults[0].place == "arms.a[0]"
    assert caught.value.faults[0].mend


def test_only_losses_over_the_model_have_a_rank() -> None:
    with pytest.raises(InputError, match="more than W and L"):
        rank(known()["dpo"])


def test_is_monomial_says_where_the_ratio_is_one_of_products() -> None:
    assert {name for name, one in known().items() if not one.is_monomial} == {"ce_unlikelihood", "implication"}


def test_the_drawing_is_the_one_in_the_docs() -> None:
    """The page says how to make it again."""
    drawn = picture()
    assert (DOCS / "logic.svg").read_text(encoding="utf-8") == drawn
    assert drawn.count("<circle") == 256 + 3
    assert drawn.count('rx="8"') == 16


def test_every_row_of_the_page_is_right() -> None:
    """Formulas and ratios of the tables in ``docs/logic.md``."""
    rows = [[cell.strip(" `") for cell in line.replace("\\|", "¦").split("|")[1:-1]] for line in PAGE.splitlines()
            if " over " in line and line.startswith("| `")]  # fmt: skip
    assert len(rows) >= 8
    for name, fraction, sentence, ratio, *_ in rows:
        structure = read(fraction.replace("¦", "|"))
        assert name_of(structure) == name or name == "", name
        assert ratio == structure.ratio
        if sentence:
            assert read(sentence.replace("¦", "|")) == structure


def test_the_examples_of_the_page_run() -> None:
    """What Python prints, and what a recipe may say."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    example = doctest.DocTestParser().get_doctest(code, {}, "logic.md", None, None)
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(failed=0, attempted=4)
    arms, mixed = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    recipe = parse({"model": "m", "data": {"pairs": "p"}, **yaml.safe_load(arms)}, name="n")
    assert recipe.faults == ()
    same = [point.steps[0].settings["formula"] for point in recipe.points[:2]]
    assert read(same[0]) == read(same[1])
    assert (
        parse({"model": "m", "data": {"pairs": "p"}, "arms": {"rpo": [yaml.safe_load(mixed)]}}, name="n").faults == ()
    )
