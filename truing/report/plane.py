"""A plane of arms: what each gains, upwards, over what it pays, to the right; both intervals, the Pareto set ringed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.report import labels, plot, show
from truing.report.looks import BASE, Look
from truing.report.pareto import Point
from truing.report.plot import TRACE, Figure

HEIGHT, NARROW_HEIGHT = 540, 430
MARGIN, NARROW_MARGIN = {"l": 58, "r": 16, "t": 16, "b": 58}, {"l": 46, "r": 8, "t": 10, "b": 50}
_WIDTH, _NARROW_WIDTH = 1090, 350


@dataclass(frozen=True)
class Plane:
    """What is drawn and where.

    Attributes:
        points: in the order in which they are drawn, curve by curve along its dial.
        kept: those of the Pareto set, by rising cost.
        looks: of every curve.
        base: where the base stands: what it costs, what it gains.
        heads: what is paid and what is gained, for hovers.
        x, y: ranges of the axes; that of costs in the coordinate ``through`` which it is drawn.
    """

    points: Sequence[Point]
    kept: Sequence[Point]
    looks: Mapping[str, Look]
    base: tuple[float, float]
    heads: tuple[str, str]
    x: tuple[float, float]
    y: tuple[float, float]
    through: Callable[[float], float] = float

    def traces(self) -> list[Figure]:
        """The staircase, the curves, the rings and the base, from the back to the front."""
        curves = [self._curve(curve, own, look) for curve, look in self.looks.items() if (own := self._of(curve))]
        return [self._staircase(), *curves, self._rings(), self._base()]

    def _of(self, curve: str) -> list[Point]:
        return [p for p in self.points if p.arm.curve == curve]

    def _curve(self, curve: str, points: Sequence[Point], look: Look) -> Figure:
        fills = ["$surface" if p.is_bound else look.colour for p in points]
        cost, gain = self.heads
        return {
            "name": plot.text(curve),
            "x": [self.through(p.x) for p in points],
            "y": [p.y for p in points],
            "error_x": plot.bars([p.x for p in points], [p.distance for p in points], look.colour, self.through),
            "error_y": plot.bars([p.y for p in points], [p.win for p in points], look.colour),
            "mode": "lines+markers",
            "line": {"color": look.colour, "width": 2},
            "marker": {
                "color": fills,
                "symbol": look.symbol,
                "size": 11,
                "opacity": 1,
                "line": {"color": look.colour, "width": 2},
            },
            "hovertext": [plot.hover(p.arm, (p.win, gain), (p.distance, cost)) for p in points],
            **TRACE,
        }

    def _rings(self) -> Figure:
        ring = {"symbol": "circle-open", "size": 21, "color": "$ink", "line": {"width": 1.6, "color": "$ink"}}
        x, y = [self.through(p.x) for p in self.kept], [p.y for p in self.kept]
        return {"x": x, "y": y, "mode": "markers", "marker": ring, **TRACE, "hoverinfo": "skip"}

    def _staircase(self) -> Figure:
        """The edge of what was reached: at this cost, the best gain that some arm (or the base) has."""
        steps = sorted([(p.x, p.y) for p in self.kept] + ([] if self._beaten else [self.base]))
        return {
            "x": [*(self.through(x) for x, _ in steps), self.x[1]],
            "y": [*(y for _, y in steps), steps[-1][1]],
            "mode": "lines",
            "line": {"color": "$edge", "width": 7, "shape": "hv"},
            **TRACE,
            "hoverinfo": "skip",
        }

    @property
    def _beaten(self) -> bool:
        """Whether an arm costs less than the base and gains more."""
        cost, gain = self.base
        return any(p.x <= cost and p.y >= gain and (p.x, p.y) != self.base for p in self.kept)

    def _base(self) -> Figure:
        marker: dict[str, Any] = {"symbol": BASE.symbol, "size": 12, "color": BASE.colour}
        said = "<b>base</b><br>what the others are measured against"
        x, y = [self.through(self.base[0])], [self.base[1]]
        return {"x": x, "y": y, "mode": "markers", "marker": marker, "hovertext": [said], **TRACE}

    def annotations(self, *, short: bool) -> list[Mapping[str, Any]]:
        """Every label, where it covers least. On a phone a label is the dial's value alone."""
        sizes = (NARROW_MARGIN, _NARROW_WIDTH, NARROW_HEIGHT) if short else (MARGIN, _WIDTH, HEIGHT)
        margin, width, height = sizes
        size = 11 if short else 12.5
        frame = labels.Frame(
            width=width - margin["l"] - margin["r"],
            height=height - margin["t"] - margin["b"],
            x=self.x,
            y=self.y,
            line=size * 1.25,
        )
        texts = ["base", *(_label(p, short=short) for p in self.points)]
        ends = [(self.through(x), y) for x, y in (self.base, *((p.x, p.y) for p in self.points))]
        colours = ["$ink", *(self.looks[p.arm.curve].colour for p in self.points)]
        spots = labels.place(frame, [frame.at(*end) for end in ends], texts, self._ink(frame))
        return [
            {
                "x": x,
                "y": y,
                "text": plot.text(label),
                "showarrow": False,
                "xanchor": spot.anchor[0],
                "yanchor": spot.anchor[1],
                "xshift": spot.shift[0],
                "yshift": -spot.shift[1],
                "borderpad": 0,
                "font": {"color": colour, "size": size},
            }
            for (x, y), label, colour, spot in zip(ends, texts, colours, spots, strict=True)
        ]

    def _ink(self, frame: labels.Frame) -> list[labels.Box]:
        """What labels should not cover: markers, error bars and the lines between the points of a curve."""
        level = self.base[1]
        boxes = labels.path([frame.at(frame.x[0], level), frame.at(frame.x[1], level)], width=1.5)
        at = {id(p): frame.at(self.through(p.x), p.y) for p in self.points}
        for p in self.points:
            x, y = at[id(p)]
            boxes.append((x - 9, y - 9, x + 9, y + 9))
            if span := plot.ends(p.win):
                boxes += labels.path([frame.at(self.through(p.x), end) for end in span])
            if span := plot.ends(p.distance):
                boxes += labels.path([frame.at(self.through(end), p.y) for end in span])
        for p, q in itertools.pairwise(self.points):
            if p.arm.curve == q.arm.curve:
                boxes += labels.path([at[id(p)], at[id(q)]])
        return boxes

    def narrow(self, data: Sequence[Figure]) -> dict[str, Any]:
        """What changes on a phone; the rings and the base are the last two of ``data``."""
        smaller = {str(i): {"marker": {"size": 8}} for i, trace in enumerate(data) if "error_y" in trace}
        smaller |= {str(len(data) - 2): {"marker": {"size": 16}}, str(len(data) - 1): {"marker": {"size": 10}}}
        layout = {
            "height": NARROW_HEIGHT,
            "margin": NARROW_MARGIN,
            "font": {"size": 11},
            "annotations": self.annotations(short=True),
        }
        return {"layout": layout, "data": smaller}

    def layout(self) -> dict[str, Any]:
        """Of a wide figure: ranges, labels and the level of the base."""
        layout = plot.base_layout(height=HEIGHT) | {"shapes": [plot.level(self.base[1])], "margin": MARGIN}
        layout["annotations"] = self.annotations(short=False)
        layout["xaxis"] |= {"range": self.x}
        layout["yaxis"] |= {"range": self.y}
        return layout


def _label(point: Point, *, short: bool) -> str:
    """The dial's value; the curve's own name where there is no dial. A bound says so."""
    label = show.dial(point.arm, name=not short) if point.arm.dial else point.arm.curve.rsplit("/", 1)[-1]
    return label + (" (≤)" if point.is_bound and not short else "")
