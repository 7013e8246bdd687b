"""The path of weights from the base to each arm: its loss on neutral text, point by point."""

from __future__ import annotations

import math

from truing.core.measures import Measure
from truing.report import plot
from truing.report.looks import of_curves
from truing.report.plot import TRACE, Figure
from truing.report.study import Study

PREFIX = "path."


def path(study: Study) -> Figure | None:
    """A line for every arm whose path was walked; None where none was."""
    looks, data = of_curves(study), []
    for arm in study.candidates:
        found = _points(study, arm.name)
        if len(found) > 1:
            look = looks[arm.curve]
            values, measures = [m.value for _, m in found], [m for _, m in found]
            data.append(
                {
                    "x": [t for t, _ in found],
                    "y": values,
                    "error_y": plot.bars(values, measures, look.colour),
                    "mode": "lines+markers",
                    "line": {"color": look.colour, "width": 1.5},
                    "marker": {"color": look.colour, "symbol": look.symbol, "size": 7},
                    "hovertext": [plot.hover(arm, (m, f"{t:g} of the way: loss")) for t, m in found],
                    **TRACE,
                }
            )
    if not data:
        return None
    layout = plot.base_layout(height=320)
    layout["xaxis"] |= {"range": [-0.03, 1.03], "tickvals": [0, 0.25, 0.5, 0.75, 1]}
    layout["xaxis"] |= {"ticktext": ["base", "¼", "½", "¾", "arm"]}
    layout["yaxis"] |= plot.axis_title("nats a token", 8) | {"nticks": 6}
    return {"data": data, "layout": layout, "narrow": {"layout": {"font": {"size": 11}}}}


def _points(study: Study, arm: str) -> list[tuple[float, Measure]]:
    taken = study.table[arm].items()
    found = [(float(p.removeprefix(PREFIX)), m) for p, m in taken if p.startswith(PREFIX) and math.isfinite(m.value)]
    return sorted(found, key=lambda point: point[0])
