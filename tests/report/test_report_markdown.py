from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_helpers import MakeRun, kl, win

from truing.core.measures import Measure
from truing.report import markdown, ran, show
from truing.report.study import gather
from truing.report.words import verdict


def test_it_says_the_same_sentences_and_holds_every_arm(trial: Path) -> None:
    study = gather([trial])
    page = markdown.page(study)
    for sentence in verdict(study, mark=lambda name: f"**{markdown.plain(name)}**").sentences:
        assert sentence in page
    rows = [line for line in page.splitlines() if line.startswith("| dpo/beta=0.05 |")]
    assert "71\u202f%" in rows[0]
    assert "≤\u202f0.636\u202fnats" in page


def test_every_row_of_a_table_has_as_many_cells_as_its_head(make_run: MakeRun) -> None:
    """Bars, newlines and markup in names do not break a table."""
    names = ["a|b", "line\nbreak", "<script>", "`code`", "\\|"]
    page = markdown.page(gather([make_run({"base": {}, **{name: {**win(0.6), **kl(1.0)} for name in names}})]))
    assert "<script>" not in page
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in block.splitlines()}
        assert len(counts) == 1, block


def test_a_recipe_cannot_end_its_fence(make_run: MakeRun) -> None:
    page = markdown.page(gather([make_run({"base": {}, "a": win(0.6)}, recipe={"note": "```\n# not a heading\n```"})]))
    fence = re.search(r"^(`{4,})yaml$", page, flags=re.MULTILINE)
    assert fence is not None
    assert page.count(fence.group(1)) == 2


def test_the_ledger_is_shown_as_the_data_contract_writes_it(make_run: MakeRun) -> None:
    reasons = [{"status": "refused", "reason": "bad JSON", "count": 2, "first_rows": ["p:1"], "detail": ""}]
    counts = {"kept": 1200, "repaired": 1, "shortened": 0, "refused": 2, "tokens_lost": 0, "reasons": reasons}
    folder = make_run(
        {"base": {}, "a": win(0.6)}, data={"pairs": {"source": "p.jsonl", "digest": "d", "ledger": counts}}
    )
    row = ("pairs", "p.jsonl", "1,200", "1", "0", "2", "0", "2 × bad JSON (refused)", "d")
    assert ran.ledger(gather([folder]).runs[0]) == [row]


def test_the_best_of_a_column_leaves_the_base_aside_and_says_who_is_level(make_run: MakeRun) -> None:
    def perplexity(value: float) -> dict[str, dict[str, object]]:
        return {"perplexity": {"value": value, "low": value - 0.5, "high": value + 0.5, "better": "down"}}

    folder = make_run({"base": perplexity(1.0), "a": perplexity(9.0), "b": perplexity(9.4), "c": perplexity(12.0)})
    assert show.best(gather([folder]), "perplexity") == ({"a"}, {"b"})


@pytest.mark.parametrize("values", [[9.0, 9.4], [9.0, 9.0, 9.0, 20.0]])
def test_nobody_is_best_where_all_or_most_are_equal(make_run: MakeRun, values: list[float]) -> None:
    arms = {
        str(i): {"perplexity": {"value": v, "low": v - 0.5, "high": v + 0.5, "better": "down"}}
        for i, v in enumerate(values)
    }
    assert show.best(gather([make_run({"base": {}, **arms})]), "perplexity") == (set(), set())


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.125, "probability", "12\u202f%"),
        (0.034, "probability", "3.4\u202f%"),
        (0.999, "probability", "99.9\u202f%"),
        (1.0, "probability", "100\u202f%"),
        (2.9e9, "bytes", "2.90\u202fGB"),
        (134515008, "parameters", "135\u202fM"),
        (0, "parameters", "0"),
        (0, "s", "0\u202fs"),
        (0.001, "s", "under 0.1\u202fs"),
        (148, "s", "2.5\u202fmin"),
        (-1.25, "", "−1.25"),
        (88.0, "tokens", "88.0\u202ftokens"),
        (float("inf"), "", "∞"),
    ],
)
def test_quantities_read_well(value: float, unit: str, shown: str) -> None:
    assert show.quantity(value, unit) == shown


def test_an_interval_repeats_no_unit_and_a_negative_one_has_no_dash() -> None:
    share = Measure(probe="win_rate", value=0.6, low=0.55, high=0.65, unit="probability")
    assert (show.interval(share), show.interval(share, brief=True)) == ("55 to 65\u202f%", "55–65\u202f%")
    below = Measure(probe="reward", value=-1.0, low=-2.0, high=0.5)
    assert show.interval(below, brief=True) == "−2.00 to 0.500"
