from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_helpers import MakeRun, Reader, Spec, page_of

from truing.report import grids, markdown
from truing.report.study import gather

ROWS = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]
DPO = [0.32, 0.52, 0.44, 0.58]


def point(arm: str, reward: float, **more: Any) -> Spec:
    """A trained point of an arm of the recipe."""
    measured = {"reward": {"value": reward, "better": "up"}, "length": {"value": 30 * reward, "unit": "tokens"}}
    return {"_arm": arm, "_curve": arm, "_training": ROWS, **measured, **more}


@pytest.fixture
def swept(make_run: MakeRun) -> Path:
    arms: dict[str, Spec] = {"base": {"reward": {"value": 0.2, "better": "up"}}}
    arms |= {f"dpo/beta={i}": point("dpo", value) for i, value in enumerate(DPO)}
    arms |= {"<ipo>": point("<ipo>", 0.45), "best": {"reward": {"value": 0.9, "better": "up"}}}
    return make_run({**arms, "sft": point("sft", 0.5, _steps=["imitation/sft"])})


def test_best_median_and_quartiles_are_those_of_the_points(swept: Path) -> None:
    dpo, ipo, sft = grids.spreads(gather([swept]), "reward")
    assert (dpo.arm, dpo.best, dpo.median) == ("dpo", max(DPO), float(np.median(DPO)))
    assert (dpo.low, dpo.high) == pytest.approx(np.quantile(DPO, [0.25, 0.75]))
    assert (ipo.best, ipo.median, ipo.low, ipo.high) == (0.45,) * 4
    assert sft.above is None, "imitation is not compared with itself"


def test_what_wants_neither_way_has_no_best(swept: Path) -> None:
    assert {(spread.best, spread.above) for spread in grids.spreads(gather([swept]), "length")} == {(None, None)}


def test_the_share_is_of_points_above_imitation_and_else_above_the_base(swept: Path, make_run: MakeRun) -> None:
    assert [spread.above for spread in grids.spreads(gather([swept]), "reward")][:2] == [2 / 4, 0.0]
    arms = {f"dpo/beta={i}": point("dpo", value) for i, value in enumerate(DPO)}
    other = gather([make_run({"base": {"reward": {"value": 0.4, "better": "up"}}, **arms}, folder="other")])
    assert grids.baseline(other) == "base"
    assert [spread.above for spread in grids.spreads(other, "reward")] == [3 / 4]


def test_lower_is_better_where_a_measure_says_so(make_run: MakeRun) -> None:
    arms = {f"a/x={i}": point("a", 0.5, perplexity={"value": 10.0 + i, "better": "down"}) for i in range(5)}
    study = gather([make_run({"base": {"perplexity": {"value": 11.5, "better": "down"}}, **arms})])
    (spread,) = grids.spreads(study, "perplexity")
    assert (spread.best, spread.above) == (10.0, 2 / 5)


def test_a_dial_of_what_is_not_trained_and_two_points_are_no_grid(make_run: MakeRun) -> None:
    arms: dict[str, Spec] = {f"best/n={n}": {"_arm": "best", "reward": {"value": n, "better": "up"}} for n in range(5)}
    arms |= {f"dpo/beta={i}": point("dpo", value) for i, value in enumerate(DPO[:2])}
    study = gather([make_run({"base": {"reward": {"value": 0.2}}, **arms})])
    assert (grids.grids(study), grids.tables(study), grids.figures(study)) == ({}, [], [])


def test_the_page_and_the_text_tell_the_same_and_escape_names(swept: Path) -> None:
    page, text = Reader(page_of(swept)), markdown.page(gather([swept]))
    assert "Over the whole grid" in page.text
    assert "grid-0" in page.figures
    assert ("h2", {}) in page.elements
    for cell in ("0.580", "0.480", "0.410 to 0.535", "50\u202f%", "<ipo>", "Above sft"):
        assert cell in page.text
    assert "| dpo | 4 | 0.580 | 0.480 | 0.410 to 0.535 | 50\u202f% |" in text
    drawn = page.figures["grid-0"]
    assert drawn["layout"]["xaxis"]["ticktext"] == ["dpo", "&lt;ipo&gt;", "sft"]
    heights = [value for trace in drawn["data"] if trace["mode"] == "markers" for value in trace["y"]]
    assert heights == [*DPO, 0.45, 0.5]
