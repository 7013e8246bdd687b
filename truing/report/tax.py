"""Alignment against its tax: what each arm gains, over what it has forgotten, and which arms nothing beats."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from truing.core.measures import Measure
from truing.engine.pareto import pareto_set
from truing.report import plot, show
from truing.report.load import Arm
from truing.report.looks import by_curve, of_curves
from truing.report.pareto import Point
from truing.report.plane import Plane
from truing.report.plot import Figure
from truing.report.study import Study

GAINS = ("win_rate", "reward", "preference")
"""What alignment is told by: the first of these that two arms have."""


@dataclass(frozen=True)
class Tax:
    """A cost that is 0 for the base and below 0 where an arm has become better.

    Attributes:
        probe: the measure that it is made of.
        heading, axis: in words, above the figure and along its axis.
        of: from the measure's value to the cost, a share.
    """

    probe: str
    heading: str
    axis: str
    of: Callable[[float], float]


TAXES = (
    Tax("perplexity.ratio", "Perplexity lost", "Perplexity on neutral text, against the base's", lambda r: r - 1),
    Tax("multiple_choice.change", "Knowledge lost", "Right answers lost, of all questions", lambda change: -change),
)


@dataclass(frozen=True)
class Taxed(Point):
    """An arm with what it gains as ``win`` and what it pays as ``distance``."""

    @property
    def x(self) -> float:
        """The cost, a share; it may be below zero."""
        return self.distance.value


def taxed(study: Study) -> list[tuple[Tax, str, list[Taxed]]]:
    """Each tax that at least two arms pay, with the probe that tells their alignment, and these arms."""
    found = []
    for tax in TAXES:
        for gain in GAINS:
            if len(points := _points(study, tax, gain)) >= 2:
                found.append((tax, gain, points))
                break
    return found


def figures(study: Study) -> list[tuple[str, Figure]]:
    """(heading, figure) of every tax that was measured."""
    return [(tax.heading, _figure(study, tax, gain, points)) for tax, gain, points in taxed(study)]


def undominated(study: Study, gain: str, points: Sequence[Taxed]) -> list[Taxed]:
    """The arms that no other arm, nor the base at no cost, beats in both; by rising cost."""
    at = [(0.0, _level(study, gain)), *((p.x, p.y) for p in points)]
    kept = [points[i - 1] for i in pareto_set(at) if i > 0]
    return sorted(kept, key=lambda p: (p.x, p.y))


def _points(study: Study, tax: Tax, gain: str) -> list[Taxed]:
    """In the order in which they are drawn: curve by curve, along its dial."""
    found: dict[str, Taxed] = {}
    for arm in study.candidates:
        cost, up = study.find(arm.name, tax.probe), study.find(arm.name, gain)
        if cost and up and math.isfinite(cost.value) and math.isfinite(up.value):
            found[arm.name] = Taxed(arm, up, _cost(cost, tax))
    arms: Mapping[str, Sequence[Arm]] = by_curve([point.arm for point in found.values()])
    return [found[arm.name] for own in arms.values() for arm in own]


def _cost(measure: Measure, tax: Tax) -> Measure:
    """The measure as a cost, a share of what the base has."""
    ends = sorted(tax.of(end) for end in (measure.low, measure.high) if end is not None)
    low, high = ends if len(ends) == 2 else (None, None)
    return replace(measure, value=tax.of(measure.value), low=low, high=high, unit="probability", better="down")


def _level(study: Study, gain: str) -> float:
    """Where the base stands: at even odds, or at its own reward (of several runs, the first one's)."""
    own = study.find(study.references[0], gain) if gain == "reward" else None
    return own.value if own else 0.0 if gain == "reward" else 0.5


def _figure(study: Study, tax: Tax, gain: str, points: Sequence[Taxed]) -> Figure:
    share = all(p.win.unit == "probability" for p in points)
    base = (0.0, _level(study, gain))
    name = {"win_rate": "Win rate against the base"}.get(gain, show.heading(gain))
    plane = Plane(
        points=points,
        kept=undominated(study, gain, points),
        looks=of_curves(study),
        base=base,
        heads=(tax.heading, show.heading(gain)),
        x=_range([base[0], *(end for p in points for end in (p.x, *(plot.ends(p.distance) or ())))], least=0.02),
        y=_range([base[1], *(end for p in points for end in (p.y, *(plot.ends(p.win) or ())))], least=0.1),
    )
    data = plane.traces()
    layout, narrow = plane.layout(), plane.narrow(data)
    ticks = "+.0%" if plane.x[1] - plane.x[0] > 0.05 else "+.1%"
    layout["xaxis"] |= {"tickformat": ticks, **plot.axis_title(tax.axis, 12)}
    layout["yaxis"] |= ({"tickformat": ".0%"} if share else {}) | plot.axis_title(name, 8)
    narrow["layout"] |= {
        "yaxis": {"title": {"text": show.heading(gain), "standoff": 4}},
        "xaxis": {"title": {"text": tax.axis}, "nticks": 5},
    }
    return {"data": data, "layout": layout, "narrow": narrow}


def _range(values: Sequence[float], *, least: float) -> tuple[float, float]:
    """From a little below the least value to a little above the greatest."""
    low, high = min(values), max(values)
    room = 0.07 * max(high - low, least)
    return low - room, max(high, low + least) + room
