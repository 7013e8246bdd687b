"""The front: win rate over KL with both intervals, one curve a method along its dial, the Pareto set ringed."""

from __future__ import annotations

from truing.report import plot, show
from truing.report.looks import by_curve, of_curves
from truing.report.pareto import Point, best_of_n
from truing.report.plane import Plane
from truing.report.plot import TRACE, Figure, root
from truing.report.study import Study


def front(study: Study) -> Figure:
    """The figure.

    KL is spaced by its square root: a policy that moves by a small step gains in proportion to the step and pays a KL
    in proportion to its square, so curves that trade alike look alike, and far arms do not crush the near ones.
    """
    points = [p for arms in by_curve([p.arm for p in study.points]).values() for a in arms for p in _at(study, a.name)]
    reach = max([1.2, *(max(plot.ends(p.distance) or (p.x,)) for p in points)]) * 1.08
    heights = [height for p in points for height in (p.y, *(plot.ends(p.win) or ()))]
    plane = Plane(
        points=points,
        kept=[p for name in study.pareto for p in _at(study, name)],
        looks=of_curves(study),
        base=(0.0, 0.5),
        heads=("KL", "Win rate"),
        x=plot.kl_range(reach),
        y=(max(min([0.46, *heights]) - 0.03, -0.02), min(max([0.6, *heights]) + 0.05, 1.04)),
        through=root,
    )
    data = [_best_of_n_curve(reach), *plane.traces()]
    layout, narrow = plane.layout(), plane.narrow(data)
    layout["xaxis"] |= plot.kl_ticks(reach, least=0.055)
    layout["xaxis"] |= plot.axis_title("KL from the base, nats (square-root spacing)", 12)
    layout["yaxis"] |= {"tickformat": ".0%", **plot.axis_title("Win rate against the base", 8)}
    narrow["layout"] |= {
        "yaxis": {"title": {"text": "Win rate", "standoff": 4}},
        "xaxis": plot.kl_ticks(reach, least=0.14) | {"title": {"text": "KL, nats (square-root spacing)"}},
    }
    return {"data": data, "layout": layout, "narrow": narrow}


def _at(study: Study, arm: str) -> list[Point]:
    return [p for p in study.points if p.arm.name == arm]


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
