"""Alignment against its tax: which arms are drawn, where, and which of them nothing beats."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_helpers import MakeRun, Reader, Spec, kl, page_of, win

from truing.report import tax, write
from truing.report.study import gather


def ratio(value: float, half: float = 0.02) -> Spec:
    more = {"n": 24, "unit": "times", "better": "down"}
    return {"perplexity.ratio": {"value": value, "low": value - half, "high": value + half, **more}}


def change(value: float, half: float = 0.03) -> Spec:
    more = {"n": 64, "unit": "probability", "better": "up"}
    return {"multiple_choice.change": {"value": value, "low": value - half, "high": value + half, **more}}


@pytest.fixture
def taxing(make_run: MakeRun) -> Path:
    """A tuned model and two ways back to the base, one above the other; and an arm without a tax."""
    line = {"_curve": "linear", "_dial": ["weight", 0.5]}
    parts = {"_curve": "parts", "_dial": ["pretrained_fraction", 0.5]}
    return make_run(
        {
            "base": {"reward": {"value": 0.1, "better": "up"}},
            "dpo": {**win(0.7), **kl(3.0), **ratio(1.30), **change(-0.09)},
            "linear/weight=0.5": {**line, **win(0.6), **kl(1.0), **ratio(1.10), **change(-0.03)},
            "parts/pretrained_fraction=0.5": {**parts, **win(0.65), **kl(1.0), **ratio(0.98), **change(0.02)},
            "mute": win(0.9),
        }
    )


def test_costs_are_shares_and_zero_is_the_base(taxing: Path) -> None:
    by_perplexity, by_knowledge = tax.taxed(gather([taxing]))
    assert [gain for _, gain, _ in (by_perplexity, by_knowledge)] == ["win_rate", "win_rate"]
    found = {p.arm.name: p for p in by_perplexity[2]}
    assert set(found) == {"dpo", "linear/weight=0.5", "parts/pretrained_fraction=0.5"}
    assert found["dpo"].x == pytest.approx(0.30)
    assert (found["dpo"].distance.low, found["dpo"].distance.high) == (pytest.approx(0.28), pytest.approx(0.32))
    lost = {p.arm.name: p.distance for p in by_knowledge[2]}["dpo"]
    assert (lost.value, lost.low, lost.high) == (pytest.approx(0.09), pytest.approx(0.06), pytest.approx(0.12))


def test_what_nothing_beats_by_the_definition(taxing: Path) -> None:
    study = gather([taxing])
    for _, gain, points in tax.taxed(study):
        at = {p.arm.name: (p.x, p.y) for p in points} | {"base": (0.0, 0.5)}
        wanted = {
            name
            for name, own in at.items()
            if not any(q[0] <= own[0] and q[1] >= own[1] and q != own for q in at.values())
        }
        found = [p.arm.name for p in tax.undominated(study, gain, points)]
        assert found == ["parts/pretrained_fraction=0.5", "dpo"]
        assert set(found) == wanted


def test_the_staircase_goes_left_of_a_base_that_is_beaten(taxing: Path) -> None:
    """An arm costs less than nothing and gains: the edge begins there, and the base lies under it."""
    (_, figure), _ = tax.figures(gather([taxing]))
    edge = figure["data"][0]
    assert edge["y"] == [0.65, 0.7, 0.7]
    assert edge["x"][0] == pytest.approx(-0.02)
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < -0.04
    assert high > 0.32


def test_without_a_win_rate_the_reward_tells_alignment_from_where_the_base_stands(make_run: MakeRun) -> None:
    reward = {"better": "up", "low": 0.0, "high": 1.0}
    arms = {name: {"reward": {"value": v, **reward}, **ratio(r)} for name, v, r in (("a", 0.4, 1.1), ("b", 0.05, 1.2))}
    study = gather([make_run({"base": {"reward": {"value": 0.1}}, **arms})])
    ((_, gain, points),) = tax.taxed(study)
    assert gain == "reward"
    assert [p.arm.name for p in tax.undominated(study, gain, points)] == ["a"]
    ((_, figure),) = tax.figures(study)
    assert figure["data"][-1]["y"] == [0.1]


def test_one_arm_or_infinite_measures_draw_nothing(make_run: MakeRun) -> None:
    arms = {"a": {**win(0.6), **ratio(1.1)}, "b": {**win(0.6), "perplexity.ratio": {"value": float("inf")}}}
    assert tax.taxed(gather([make_run({"base": {}, **arms})])) == []


def test_the_page_and_the_markdown_have_it(taxing: Path) -> None:
    page = Reader(page_of(taxing))
    assert {"tax-1", "tax-2"} <= set(page.figures)
    assert ("section", {"id": "tax"}) in page.elements
    _, markdown = write([taxing])
    said = markdown.read_text(encoding="utf-8")
    assert "## Perplexity lost against win rate" in said
    assert "- dpo: win rate 70" in said
