"""How an arm does over its whole grid, and not at its best point alone.

The best of many points flatters a method that needs luck in tuning; the protocol compares distributions over the grid
(Saeidi et al. 2024, arXiv:2407.15229): best, median, quartiles, and the share of points above imitation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, quantiles

from truing.core.measures import Measure
from truing.report import plot, show
from truing.report.load import Arm
from truing.report.looks import HUES, SYMBOLS, Look
from truing.report.plot import TRACE, Figure
from truing.report.study import Study

LEAST = 3
"""Points of an arm from which a distribution can be told."""
IMITATION = frozenset({"imitation/sft", "preference/sft_chosen"})
PROBES = ("win_rate", "reward", "satisfied", "preference", "preference.likelihood", "kl", "length", "perplexity")
HEADS = ("Arm", "Points", "Best", "Median", "Quartiles")


@dataclass(frozen=True)
class Spread:
    """One measure of one arm over its grid.

    Attributes:
        arm: the recipe's arm.
        measures: of its points.
        best: the largest or smallest value, as the measure wants it; None where it wants neither.
        median, low, high: the median and the quartiles (linear interpolation).
        above: the share of points that are better than the baseline, in [0, 1]; None where there is nothing to ask.
    """

    arm: str
    measures: Sequence[Measure]
    best: float | None
    median: float
    low: float
    high: float
    above: float | None


def grids(study: Study) -> Mapping[str, Sequence[Arm]]:
    """The points of every trained arm of the recipe, where some arm has enough of them; else nothing.

    What is not trained has a dial and no grid: nobody hopes for luck in the n of best-of-n.
    """
    found: dict[str, list[Arm]] = {}
    for arm in (arm for arm in study.candidates if arm.training):
        found.setdefault(arm.group or arm.curve, []).append(arm)
    return found if any(len(points) >= LEAST for points in found.values()) else {}


def baseline(study: Study) -> str:
    """What a point must beat: imitation where the comparison has an arm of it, else the base."""
    groups = (name for name, points in grids(study).items() if all(set(p.steps[-1:]) & IMITATION for p in points))
    return next(groups, study.references[0])


def spreads(study: Study, probe: str) -> list[Spread]:
    """One measure over every arm's grid, in the order of the arms; arms with fewer points are single numbers."""
    found = {name: measures for name, points in grids(study).items() if (measures := _finite(study, points, probe))}
    base = baseline(study)
    own = study.find(base, probe)
    level = median([m.value for m in found[base]]) if base in found else own.value if own else None
    if probe == "win_rate" and level is None:
        level = 0.5  # of the base against itself
    return [_spread(name, measures, None if name == base else level) for name, measures in found.items()]


def _finite(study: Study, points: Sequence[Arm], probe: str) -> list[Measure]:
    found = (study.find(point.name, probe) for point in points)
    return [measure for measure in found if measure is not None and math.isfinite(measure.value)]


def _spread(name: str, measures: Sequence[Measure], level: float | None) -> Spread:
    values = [measure.value for measure in measures]
    ways = {measure.better for measure in measures}
    sign = {"up": 1.0, "down": -1.0}.get(ways.pop() if len(ways) == 1 else "", 0.0)
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    best = sign * max(sign * value for value in values) if sign else None
    above = fmean(sign * value > sign * level for value in values) if sign and level is not None else None
    return Spread(name, measures, best, middle, low, high, above)


def tables(study: Study) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """(heading, columns, rows) of every measure that some arm has over its grid."""
    found: list[tuple[str, Sequence[str], list[list[str]]]] = []
    versus = f"Above {baseline(study)}"
    for probe in PROBES:
        rows = [_row(spread) for spread in spreads(study, probe)]
        if rows and grids(study):
            found.append((show.heading(probe), (*HEADS, versus), rows))
    return found


def _row(spread: Spread) -> list[str]:
    unit = spread.measures[0].unit
    low, middle, high = (show.quantity(value, unit) for value in (spread.low, spread.median, spread.high))
    best = show.quantity(spread.best, unit) if spread.best is not None else "–"
    above = show.percent(spread.above) if spread.above is not None else "–"
    return [spread.arm, str(len(spread.measures)), best, middle, f"{low} to {high}", above]


def figures(study: Study) -> list[tuple[str, Figure]]:
    """(heading, figure) of the measures that want to be high: every point, and a box from quartile to quartile."""
    drawn = []
    for probe in ("win_rate", "reward", "preference"):
        found = spreads(study, probe)
        if any(len(spread.measures) >= LEAST for spread in found):
            drawn.append((f"{show.heading(probe)} over the grid", _figure(study, probe, found)))
    return drawn


def _figure(study: Study, probe: str, found: Sequence[Spread]) -> Figure:
    data = []
    arms = {arm.name: arm for arm in study.arms}
    for at, spread in enumerate(found):
        look = Look(f"$c{at % HUES}", SYMBOLS[at % len(SYMBOLS)])
        count = len(spread.measures)
        across = [at + (0.0 if count == 1 else 0.24 * (2 * i / (count - 1) - 1)) for i in range(count)]
        if count >= LEAST:
            box = {"x": [at - 0.32, at + 0.32, at + 0.32, at - 0.32], "y": [spread.low] * 2 + [spread.high] * 2}
            data.append({**TRACE, **box, "mode": "lines", "line": {"width": 0}, "fill": "toself",
                         "fillcolor": look.colour, "opacity": 0.18, "hoverinfo": "skip"})  # fmt: skip
            middle = {"x": [at - 0.32, at + 0.32], "y": [spread.median] * 2}
            data.append({**TRACE, **middle, "mode": "lines", "line": {"color": look.colour, "width": 2.5},
                         "hoverinfo": "skip"})  # fmt: skip
        data.append({
            **TRACE,
            "x": across,
            "y": [measure.value for measure in spread.measures],
            "mode": "markers",
            "marker": {"color": look.colour, "symbol": look.symbol, "size": 7},
            "hovertext": [plot.hover(arms[m.arm], (m, show.heading(probe))) for m in spread.measures],
        })  # fmt: skip
    layout = plot.base_layout(height=320)
    names = [plot.text(spread.arm) for spread in found]
    layout["xaxis"] |= {"range": [-0.5, len(found) - 0.5], "tickvals": list(range(len(found))), "ticktext": names}
    layout["yaxis"]["nticks"] = 6
    if all(spread.measures[0].unit == "probability" for spread in found):
        layout["yaxis"]["tickformat"] = ".0%"
    level = [m.value for r in study.references if (m := study.find(r, probe)) and math.isfinite(m.value)]
    layout["shapes"] = [plot.level(value) for value in level or ([0.5] if probe in ("win_rate", "preference") else [])]
    return {"data": data, "layout": layout, "narrow": {"layout": {"font": {"size": 10}}}}
