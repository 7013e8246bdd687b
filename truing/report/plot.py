"""What every figure is made of: the shared layout, the KL axis, error bars, the text of a hover.

A figure is plain mappings of ``data`` and ``layout`` as plotly reads them. Text that comes from outside passes
:func:`text`, because plotly reads a subset of HTML in labels. Values that are not finite never get this far. ``narrow``
holds what changes on a phone, as ``layout`` and ``data`` (by the number of the trace); the page's script lays it over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truing.core.measures import Measure
from truing.report import show
from truing.report.load import Arm

Figure = dict[str, Any]
TRACE: Mapping[str, Any] = {"type": "scatter", "hoverinfo": "text", "showlegend": False, "cliponaxis": False}
FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
_KL_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)


def text(raw: str) -> str:
    """Text that plotly shows as it is: its pseudo-HTML cannot begin a tag or an entity."""
    return raw.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def hover(arm: Arm, *rows: tuple[Measure, str]) -> str:
    """The arm's name and its measures, each with interval and n."""
    lines = [f"<b>{text(arm.name)}</b>"]
    for measure, name in rows:
        bracket = f" ({show.interval(measure)})" if show.interval(measure) else ""
        lines.append(text(f"{name} {show.value(measure)}{bracket}{f', n = {measure.n}' if measure.n else ''}"))
    return "<br>".join(lines)


def root(value: float) -> float:
    """Where a KL stands on its axis. An estimate below zero, which noise can give, stands at zero."""
    return math.sqrt(max(value, 0.0))


def bars(
    centres: Sequence[float], measures: Sequence[Measure], colour: str, through: Callable[[float], float] = float
) -> Mapping[str, Any]:
    """Error bars of the 95 % intervals, in the coordinate ``through`` in which the axis is drawn."""
    above, below = [], []
    for centre, measure in zip(centres, measures, strict=True):
        low, high = ends(measure) or (centre, centre)
        above.append(max(through(high) - through(centre), 0.0))
        below.append(max(through(centre) - through(low), 0.0))
    shape = {"thickness": 1.2, "width": 3, "color": colour}
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **shape}


def ends(measure: Measure) -> tuple[float, float] | None:
    """The interval where it can be drawn: known and finite at both ends."""
    if measure.low is None or measure.high is None or math.isinf(measure.low) or math.isinf(measure.high):
        return None
    return measure.low, measure.high


def kl_range(reach: float) -> tuple[float, float]:
    """The axis from a little left of zero to ``reach`` nats."""
    return -0.035 * root(reach), root(reach)


def kl_ticks(reach: float, *, least: float) -> dict[str, Any]:
    """Ticks at round KLs, at least the share ``least`` of the axis apart."""
    shown: list[float] = []
    for tick in _KL_TICKS:
        if tick <= reach and (not shown or root(tick) - root(shown[-1]) >= least * root(reach)):
            shown.append(tick)
    return {"tickvals": [root(tick) for tick in shown], "ticktext": [f"{tick:g}" for tick in shown]}


def level(height: float) -> Mapping[str, Any]:
    """A quiet line across the figure: where the base stands."""
    line = {"color": "$muted", "width": 1, "dash": "2px,3px"}
    ends = {"xref": "paper", "x0": 0, "x1": 1, "y0": height, "y1": height}
    return {"type": "line", **ends, "line": line, "layer": "below", "opacity": 0.7}


def base_layout(*, height: int) -> dict[str, Any]:
    """What all figures share: no box, quiet grid, no dragging (a phone scrolls past)."""
    axis = {
        "gridcolor": "$grid",
        "linecolor": "$grid",
        "zeroline": False,
        "tickcolor": "$grid",
        "tickfont": {"color": "$muted"},
        "automargin": False,
        "fixedrange": True,
    }
    label = {"bgcolor": "$raised", "bordercolor": "$grid", "align": "left"}
    label_font = {"color": "$ink", "size": 12.5, "family": FAMILY}
    return {
        "height": height,
        "margin": {"l": 52, "r": 10, "t": 8, "b": 46},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FAMILY, "size": 12.5, "color": "$muted"},
        "hoverlabel": label | {"font": label_font},
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": dict(axis) | {"showgrid": False, "ticks": "outside", "ticklen": 4},
        "yaxis": dict(axis),
    }


def axis_title(name: str, standoff: int) -> dict[str, Any]:
    """A title no larger than the ticks."""
    return {"title": {"text": name, "standoff": standoff, "font": {"size": 12.5, "color": "$muted"}}}
