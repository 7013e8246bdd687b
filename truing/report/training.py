"""How training went: loss, margins, chosen and rejected replies apart, and what of it went wrong, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truing.engine.verdicts import LEAST, Finding, findings
from truing.report import plot, show
from truing.report.load import Arm
from truing.report.looks import of_trained
from truing.report.study import Study
from truing.report.words import Mark, base_of, listed

LONGER = 1.5
"""How many times as long as the base's the replies of an arm may be before it is called running away."""
MOST = 300
"""Points that a line is drawn from; a longer log is averaged in steps of equal length."""

PANELS: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (
    ("Loss", (("loss", "solid"), ("eval_loss", "dot"))),
    ("Reward margin, chosen minus rejected", (("rewards/margins", "solid"), ("eval_rewards/margins", "dot"))),
    (
        "Log-probability against the base: chosen (solid), rejected (dashed), nats a reply",
        (("displacement/chosen", "solid"), ("displacement/rejected", "dash")),
    ),
    ("Log-probability of the demonstrated reply, nats", (("logps/chosen", "solid"), ("eval_logps/chosen", "dot"))),
    ("Pairs ranked rightly", (("rewards/accuracies", "solid"), ("eval_rewards/accuracies", "dot"))),
    ("Pairs that no longer pull", (("saturated", "solid"), ("eval_saturated", "dot"))),
    ("Cosine of the gradients of chosen and rejected", (("entanglement/cosine", "solid"),)),
    ("Token accuracy", (("mean_token_accuracy", "solid"), ("eval_mean_token_accuracy", "dot"))),
)
SHARES = ("rewards/accuracies", "saturated", "mean_token_accuracy")


def curves(study: Study) -> list[tuple[str, plot.Figure]]:
    """(heading, figure) of every panel for which some arm has two points."""
    panels = []
    for heading, keys in PANELS:
        traces = [trace for key, dash in keys for trace in _traces(study, key, dash)]
        if traces:
            layout = plot.base_layout(height=290)
            layout["xaxis"] |= plot.axis_title("step", 8) | {"nticks": 7}
            layout["yaxis"]["nticks"] = 6
            if keys[0][0] in SHARES:
                layout["yaxis"] |= {"tickformat": ".0%", "rangemode": "tozero"}
            if keys[0][0].startswith("displacement/"):
                layout["shapes"] = [plot.level(0.0)]
            panels.append((heading, {"data": traces, "layout": layout, "narrow": {"layout": {"font": {"size": 11}}}}))
    return panels


def remarks(study: Study) -> list[tuple[str, list[str]]]:
    """(arm, its findings in words) for every trained arm that has some, in the order of the arms.

    What is said holds no markup and nothing from outside.
    """
    said = []
    for arm in (arm for arm in study.arms if arm.training):
        logged, measured = findings(arm.training), study.find(arm.name, "length") is not None
        # A reward may lean on length while replies shrink: where these were measured, they alone are the evidence.
        if found := [*(each for each in logged if not (measured and each.kind == "length")), *_longer(study, arm)]:
            said.append((arm.name, [str(finding).replace(" %", show.PERCENT) for finding in found]))
    return said


def untroubled(study: Study, mark: Mark = str) -> str:
    """A sentence on the trained arms of which there is nothing to say, or too little known; may be empty.

    Args:
        study: the comparison.
        mark: sets an arm's name, e.g. escapes it and makes it bold.
    """
    told = {name for name, _ in remarks(study)}
    rest = [arm for arm in study.arms if arm.training and arm.name not in told]
    judged = [mark(arm.name) for arm in rest if sum("loss" in row for row in arm.training) >= LEAST]
    short = [mark(arm.name) for arm in rest if mark(arm.name) not in judged]
    asked = "falling chosen replies, length, saturation or the loss"
    parts = (
        [f"At the end of training there is nothing to warn of in {listed(judged)}, as to {asked}."] if judged else []
    )
    parts += [f"Too little was logged of {listed(short)} to say more: fewer than {LEAST} rows."] if short else []
    return " ".join(parts)


def _longer(study: Study, arm: Arm) -> list[Finding]:
    """Length as it was measured on the arm's own replies, the only place where a drift of it is seen."""
    mine, base = study.find(arm.name, "length"), study.find(base_of(study, arm), "length")
    if (
        mine is None
        or base is None
        or base.value <= 0
        or mine.value < LONGER * base.value
        or not show.apart(mine, base)
    ):
        return []
    times = f"{mine.value / base.value:.1f} times"
    lengths = f"{show.number(mine.value)} tokens against {show.number(base.value)}"
    fact = f"Its replies have become {times} as long as the base's ({lengths})"
    return [Finding("length", fact, "Divide log-probabilities by length, balance the pairs by length, or raise beta.")]


def shortened(study: Study) -> bool:
    """Whether some line was averaged to be drawn."""
    return any(sum(key in row for row in arm.training) > MOST for arm in study.arms for key in ("loss",))


def _traces(study: Study, key: str, dash: str) -> list[Mapping[str, Any]]:
    look, traces = of_trained(study), list[Mapping[str, Any]]()
    for arm in study.arms:
        of_pairs = any("rewards/margins" in row for row in arm.training)
        if of_pairs and "logps/" in key:
            continue  # batches differ in their replies more than in time: the change against the base tells more
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
