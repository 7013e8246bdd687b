"""The figure of the path of weights."""

from __future__ import annotations

import json
import re

import pytest
from report_helpers import MakeRun, Reader, kl, page_of, win

from truing.report import show
from truing.report.path import path
from truing.report.study import gather


def walked(*heights: float) -> dict[str, dict[str, object]]:
    """Measures of a path, out of order, as a file may hold them."""
    points = list(enumerate(heights))
    last = len(heights) - 1
    return {
        f"path.{t / last:g}": {"value": h, "low": h - 0.1, "high": h + 0.1, "n": 9, "unit": "nats a token"}
        for t, h in reversed(points)
    }


def test_every_walked_arm_has_a_line_from_base_to_arm(make_run: MakeRun) -> None:
    arms = {
        "base": win(0.5), "far": {**win(0.6), **kl(1.0), **walked(2.0, 7.5, 2.5)}, "other": {**win(0.6), **kl(1.0)},
        "near": {**win(0.7), **kl(0.5), **walked(2.0, 1.9, 2.1), "barrier": {"value": 0.25}},
    }  # fmt: skip
    folder = make_run(arms)
    study = gather([folder])
    figure = path(study)
    assert figure is not None
    assert [trace["y"] for trace in figure["data"]] == [[2.0, 7.5, 2.5], [2.0, 1.9, 2.1]]
    assert figure["data"][0]["x"] == [0.0, 0.5, 1.0]
    assert "n = 9" in figure["data"][0]["hovertext"][1]
    graph = pytest.importorskip("plotly.graph_objects")
    drawn = json.loads(re.sub(r'"\$[a-z0-9]+"', '"#123456"', json.dumps(figure)))
    graph.Figure(data=drawn["data"], layout=drawn["layout"])
    page = Reader(page_of(folder))
    assert "path" in page.figures
    assert "From the base to each arm" in page.text
    assert "barrier" in show.columns(study)
    assert not any(probe.startswith("path.") for probe in show.columns(study))


def test_without_a_path_there_is_no_figure(make_run: MakeRun) -> None:
    folder = make_run({"base": win(0.5), "far": {**win(0.6), **kl(1.0)}}, folder="plain")
    assert path(gather([folder])) is None
    assert "From the base to each arm" not in Reader(page_of(folder)).text
