"""How training went: loss, margins and the log-probabilities of chosen and rejected replies apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truing.report import plot
from truing.report.looks import of_trained
from truing.report.study import Study

MOST = 300
"""Points that a line is drawn from; a longer log is averaged in steps of equal length."""

PANELS: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (
    ("Loss", (("loss", "solid"), ("eval_loss", "dot"))),
    ("Reward margin, chosen minus rejected", (("rewards/margins", "solid"), ("eval_rewards/margins", "dot"))),
    ("Pairs ranked rightly", (("rewards/accuracies", "solid"), ("eval_rewards/accuracies", "dot"))),
    (
        "Log-probability: chosen (solid), rejected (dashed), nats",
        (("logps/chosen", "solid"), ("logps/rejected", "dash")),
    ),
    ("Token accuracy", (("mean_token_accuracy", "solid"), ("eval_mean_token_accuracy", "dot"))),
)


def curves(study: Study) -> list[tuple[str, plot.Figure]]:
    """(heading, figure) of every panel for which some arm has two points."""
    panels = []
    for heading, keys in PANELS:
        traces = [trace for key, dash in keys for trace in _traces(study, key, dash)]
        if traces:
            layout = plot.base_layout(height=290)
            layout["xaxis"] |= plot.axis_title("step", 8) | {"nticks": 7}
            layout["yaxis"]["nticks"] = 6
            panels.append((heading, {"data": traces, "layout": layout, "narrow": {"layout": {"font": {"size": 11}}}}))
    return panels


def shortened(study: Study) -> bool:
    """Whether some line was averaged to be drawn."""
    return any(sum(key in row for row in arm.training) > MOST for arm in study.arms for key in ("loss",))


def _traces(study: Study, key: str, dash: str) -> list[Mapping[str, Any]]:
    look, traces = of_trained(study), list[Mapping[str, Any]]()
    for arm in study.arms:
        series = [(row["step"], row[key]) for row in arm.training if key in row]
        if len(series) >= 2 or (series and key.startswith("eval_")):
            thin = averaged(series)
            traces.append(
                {
                    "name": plot.text(f"{arm.name} {key}"),
                    "x": [x for x, _ in thin],
                    "y": [y for _, y in thin],
                    "mode": "lines+markers" if key.startswith("eval_") else "lines",
                    "line": {"color": look[arm.name].colour, "width": 1.8, "dash": dash},
                    "marker": {"size": 6, "color": look[arm.name].colour},
                    "hovertext": [plot.text(f"{arm.name}, step {x:g}: {key} {y:.4g}") for x, y in thin],
                    "type": "scatter",
                    "hoverinfo": "text",
                    "showlegend": False,
                }
            )
    return traces


def averaged(series: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most :data:`MOST` points: means over equal numbers of neighbours (the last group may be shorter)."""
    size = -(-len(series) // MOST)
    if size <= 1:
        return series
    groups = [series[i : i + size] for i in range(0, len(series), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
