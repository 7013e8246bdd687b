"""The front: win rate over KL with both intervals, one curve a method along its dial, the Pareto set ringed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from truing.report import labels, plot, show
from truing.report.looks import BASE, Look, by_curve, of_curves
from truing.report.pareto import Point, best_of_n
from truing.report.plot import TRACE, Figure, root
from truing.report.study import Study

HEIGHT, NARROW_HEIGHT = 540, 430
_MARGIN, _NARROW_MARGIN = {"l": 58, "r": 16, "t": 16, "b": 58}, {"l": 46, "r": 8, "t": 10, "b": 50}
_WIDTH, _NARROW_WIDTH = 1090, 350


def front(study: Study) -> Figure:
    """The figure.

    KL is spaced by its square root: a policy that moves by a small step gains in proportion to the step and pays a KL
    in proportion to its square, so curves that trade alike look alike, and far arms do not crush the near ones.
    """
    looks = of_curves(study)
    points = [p for arms in by_curve([p.arm for p in study.points]).values() for a in arms for p in _at(study, a.name)]
    reach = max([1.2, *(max(plot.ends(p.distance) or (p.x,)) for p in points)]) * 1.08
    heights = [height for p in points for height in (p.y, *(plot.ends(p.win) or ()))]
    span = (max(min([0.46, *heights]) - 0.03, -0.02), min(max([0.6, *heights]) + 0.05, 1.04))
    data = [_best_of_n_curve(reach), _staircase(study, reach)]
    for curve, look in looks.items():
        own = [p for p in points if p.arm.curve == curve]
        data += [_curve(curve, own, look)] if own else []
    data += [_rings(study), _base()]
    layout = plot.base_layout(height=HEIGHT) | {"shapes": [plot.level(0.5)], "margin": _MARGIN}
    layout["annotations"] = _labels(points, looks, reach, span, short=False)
    layout["xaxis"] |= {"range": plot.kl_range(reach), **plot.kl_ticks(reach, least=0.055)}
    layout["xaxis"] |= plot.axis_title("KL from the base, nats (square-root spacing)", 12)
    layout["yaxis"] |= {"tickformat": ".0%", "range": span, **plot.axis_title("Win rate against the base", 8)}
    narrow_layout = {
        "height": NARROW_HEIGHT,
        "margin": _NARROW_MARGIN,
        "font": {"size": 11},
        "annotations": _labels(points, looks, reach, span, short=True),
        "yaxis": {"title": {"text": "Win rate", "standoff": 4}},
        "xaxis": plot.kl_ticks(reach, least=0.14) | {"title": {"text": "KL, nats (square-root spacing)"}},
    }
    smaller = {str(i): {"marker": {"size": 8}} for i, trace in enumerate(data) if "error_y" in trace}
    smaller |= {str(len(data) - 2): {"marker": {"size": 16}}, str(len(data) - 1): {"marker": {"size": 10}}}
    return {"data": data, "layout": layout, "narrow": {"layout": narrow_layout, "data": smaller}}


def _at(study: Study, arm: str) -> list[Point]:
    return [p for p in study.points if p.arm.name == arm]


def _curve(curve: str, points: Sequence[Point], look: Look) -> Figure:
    fills = ["$surface" if p.is_bound else look.colour for p in points]
    return {
        "name": plot.text(curve),
        "x": [root(p.x) for p in points],
        "y": [p.y for p in points],
        "error_x": plot.bars([p.x for p in points], [p.distance for p in points], look.colour, root),
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
        "hovertext": [plot.hover(p.arm, (p.win, "Win rate"), (p.distance, "KL")) for p in points],
        **TRACE,
    }


def _labels(
    points: Sequence[Point], looks: Mapping[str, Look], reach: float, span: tuple[float, float], *, short: bool
) -> list[Mapping[str, Any]]:
    """Every label, where it covers least. On a phone a label is the dial's value alone."""
    margin, width, height = (_NARROW_MARGIN, _NARROW_WIDTH, NARROW_HEIGHT) if short else (_MARGIN, _WIDTH, HEIGHT)
    size = 11 if short else 12.5
    frame = labels.Frame(
        width=width - margin["l"] - margin["r"],
        height=height - margin["t"] - margin["b"],
        x=plot.kl_range(reach),
        y=span,
        line=size * 1.25,
    )
    texts = ["base", *(_label(p, short=short) for p in points)]
    ends = [(0.0, 0.5), *((root(p.x), p.y) for p in points)]
    colours = ["$ink", *(looks[p.arm.curve].colour for p in points)]
    spots = labels.place(frame, [frame.at(*end) for end in ends], texts, _ink(points, frame))
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


def _label(point: Point, *, short: bool) -> str:
    """The dial's value; the curve's own name where there is no dial. A bound says so."""
    label = show.dial(point.arm, name=not short) if point.arm.dial else point.arm.curve.rsplit("/", 1)[-1]
    return label + (" (≤)" if point.is_bound and not short else "")


def _ink(points: Sequence[Point], frame: labels.Frame) -> list[labels.Box]:
    """What labels should not cover: markers, error bars and the lines between the points of a curve."""
    boxes = labels.path([frame.at(0.0, 0.5), frame.at(frame.x[1], 0.5)], width=1.5)
    for p in points:
        x, y = frame.at(root(p.x), p.y)
        boxes.append((x - 9, y - 9, x + 9, y + 9))
        if span := plot.ends(p.win):
            boxes += labels.path([frame.at(root(p.x), end) for end in span])
        if span := plot.ends(p.distance):
            boxes += labels.path([frame.at(root(end), p.y) for end in span])
    for p, q in itertools.pairwise(points):
        if p.arm.curve == q.arm.curve:
            boxes += labels.path([frame.at(root(p.x), p.y), frame.at(root(q.x), q.y)])
    return boxes


def _rings(study: Study) -> Figure:
    kept = [p for name in study.pareto for p in _at(study, name)]
    return {
        "x": [root(p.x) for p in kept],
        "y": [p.y for p in kept],
        "mode": "markers",
        "marker": {"symbol": "circle-open", "size": 21, "color": "$ink", "line": {"width": 1.6, "color": "$ink"}},
        **TRACE,
        "hoverinfo": "skip",
    }


def _staircase(study: Study, reach: float) -> Figure:
    """The edge of what was reached: at this KL, the best win rate that some arm (or the base) has."""
    kept = [p for name in study.pareto for p in _at(study, name)]
    return {
        "x": [root(x) for x in (0.0, *(p.x for p in kept), reach)],
        "y": [0.5, *(p.y for p in kept), kept[-1].y if kept else 0.5],
        "mode": "lines",
        "line": {"color": "$edge", "width": 7, "shape": "hv"},
        **TRACE,
        "hoverinfo": "skip",
    }


def _best_of_n_curve(reach: float) -> Figure:
    """Drawn smoothly in n up to the edge of the figure or n = 1024, with a dot at each power of two."""
    steps = [i for i in range(81) if best_of_n(2 ** (i / 8))[0] <= reach]
    path = [best_of_n(2 ** (i / 8)) for i in steps]
    sizes = [6 if i % 8 == 0 and i else 0 for i in steps]
    return {
        "name": "best-of-n in theory",
        "x": [root(kl) for kl, _ in path],
        "y": [win for _, win in path],
        "mode": "lines+markers",
        "line": {"color": "$muted", "width": 1.5, "dash": "dot"},
        "marker": {"color": "$muted", "size": sizes, "opacity": 1},
        "hovertext": [
            f"best-of-{2 ** (i // 8)} in theory<br>Win rate {show.percent(win)}<br>KL {show.number(kl)} nats"
            if size
            else ""
            for i, size, (kl, win) in zip(steps, sizes, path, strict=True)
        ],
        **TRACE,
        "cliponaxis": True,
    }


def _base() -> Figure:
    marker: dict[str, Any] = {"symbol": BASE.symbol, "size": 12, "color": BASE.colour}
    said = f"<b>base</b><br>Win rate 50{show.PERCENT} and KL 0 by definition"
    return {"x": [0.0], "y": [0.5], "mode": "markers", "marker": marker, "hovertext": [said], **TRACE}
