"""The other trade-offs, as small multiples: reward, constraints kept, length and perplexity over KL."""

from __future__ import annotations

import math
from collections.abc import Sequence

from truing.report import plot, show
from truing.report.looks import BASE, by_curve, of_curves
from truing.report.pareto import Point
from truing.report.plot import TRACE, Figure, root
from truing.report.study import Study

PROBES = ("reward", "satisfied", "length", "perplexity")


def trade_offs(study: Study) -> list[tuple[str, Figure]]:
    """(heading, figure) of every one of :data:`PROBES` that at least two arms on the front have."""
    panels = []
    for probe in PROBES:
        found = [p for p in study.points if (m := study.find(p.arm.name, probe)) and math.isfinite(m.value)]
        if len(found) >= 2:
            panels.append((_heading(study, probe), _panel(study, probe, found)))
    return panels


def _heading(study: Study, probe: str) -> str:
    return {"length": "Length, tokens", "perplexity": "Perplexity on neutral text"}.get(probe, show.heading(probe))


def _panel(study: Study, probe: str, points: Sequence[Point]) -> Figure:
    looks = of_curves(study)
    reach = max([1.2, *(p.x for p in points)]) * 1.15
    at = {p.arm.name: p for p in points}
    data = []
    for curve, arms in by_curve([p.arm for p in points]).items():
        own, look = [at[arm.name] for arm in arms], looks[curve]
        measures = [study.table[p.arm.name][probe] for p in own]
        hovers = [((m, show.heading(probe)), (p.distance, "KL")) for p, m in zip(own, measures, strict=True)]
        data.append(
            {
                "x": [root(p.x) for p in own],
                "y": [m.value for m in measures],
                "error_y": plot.bars([m.value for m in measures], measures, look.colour),
                "mode": "lines+markers",
                "line": {"color": look.colour, "width": 1.5},
                "marker": {"color": look.colour, "symbol": look.symbol, "size": 8},
                "hovertext": [plot.hover(p.arm, *rows) for p, rows in zip(own, hovers, strict=True)],
                **TRACE,
            }
        )
    layout = plot.base_layout(height=300)
    layout["xaxis"] |= {"range": plot.kl_range(reach), **plot.kl_ticks(reach, least=0.12)}
    layout["xaxis"] |= plot.axis_title("KL from the base, nats", 8)
    layout["yaxis"]["nticks"] = 6
    if base := [m for r in study.references if (m := study.find(r, probe)) and math.isfinite(m.value)]:
        layout["shapes"] = [plot.level(m.value) for m in base]
        data.append(
            {
                "x": [0.0] * len(base),
                "y": [m.value for m in base],
                "mode": "markers",
                "marker": {"color": BASE.colour, "symbol": BASE.symbol, "size": 9},
                "hovertext": [plot.text(f"{m.arm}: {show.heading(probe)} {show.value(m)}") for m in base],
                **TRACE,
            }
        )
    if all(study.table[p.arm.name][probe].unit == "probability" for p in points):
        layout["yaxis"]["tickformat"] = ".0%"
    return {"data": data, "layout": layout, "narrow": {"layout": {"font": {"size": 11}}}}
