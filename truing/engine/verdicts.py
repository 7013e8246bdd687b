"""What a training log says when something goes wrong, in plain words: a fact and what mends it.

Rules over logged rows, not a model. Each looks at the last quarter of the rows, asks that a deviation be larger than
the scatter of the rows themselves, and says nothing where there are too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Row = Mapping[str, float]

LEAST = 5
"""Rows below which nothing is said."""
FELL = 1.0
"""Nats a reply: chosen replies are less than 1/e as likely as under the reference."""
BOTH = 0.5
"""Share of measured pairs beyond which entanglement is named as the reason."""
EXCESS = 0.1
"""How much more often than the data the implicit reward may prefer the longer reply."""
ONE_SIDED = 0.8
"""Share of pairs with the longer reply chosen beyond which length alone ranks the data well."""
SPENT = 0.8
"""Share of pairs that no longer pull."""
STILL = 0.02
"""Relative change of the loss, its uncertainty included, below which it hardly moved."""
ROSE = 0.05
"""Relative rise of the loss."""


@dataclass(frozen=True)
class Finding:
    """Something that goes wrong.

    Attributes:
        kind: ``displacement``, ``length`` (of the model), ``balance`` (of the data's), ``saturation`` or ``loss``.
        fact: what the log says.
        mend: what to do about it.
        since: the step from which on it was so, where that can be said.
    """

    kind: str
    fact: str
    mend: str
    since: int | None = None

    def __str__(self) -> str:
        since = f" It began at step {self.since}." if self.since is not None else ""
        return f"{self.fact}.{since} {self.mend}"


@dataclass(frozen=True)
class Level:
    """The mean of some rows of a series, and its standard error."""

    mean: float
    error: float


def findings(rows: Sequence[Row]) -> list[Finding]:
    """What is wrong at the end of these rows, the worst first.

    Args:
        rows: metrics under the names that the training loop logs; a row may lack some.
    """
    judged = (rule(rows) for rule in (_displacement, _length, _saturation, _loss))
    return [finding for finding in judged if finding is not None]


def _series(rows: Sequence[Row], *names: str) -> list[tuple[int, float]]:
    """(step, the first value less the others) of the rows that have them all; none where they are too few."""
    found = [
        (int(row["step"]), row[names[0]] - sum(row[name] for name in names[1:]))
        for row in rows
        if all(name in row for name in ("step", *names))
    ]
    return found if len(found) >= LEAST else []


def _level(series: Sequence[tuple[int, float]]) -> Level:
    values = [value for _, value in series]
    mean = sum(values) / len(values)
    scatter = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Level(mean, math.sqrt(scatter / len(values)))


def _window(series: Sequence[tuple[int, float]]) -> int:
    return max(3, len(series) // 4)


def _last(series: Sequence[tuple[int, float]]) -> Level:
    """The last quarter, three rows at the least."""
    return _level(series[-_window(series) :])


def _tail(rows: Sequence[Row], name: str) -> float | None:
    """The last mean of a series, or None where there is too little of it."""
    series = _series(rows, name)
    return _last(series).mean if series else None


def _since(series: Sequence[tuple[int, float]], beyond: Callable[[float], bool]) -> int | None:
    """The step from which on the mean of each three rows was beyond."""
    since = None
    for end in range(len(series), 2, -1):
        if not beyond(_level(series[end - 3 : end]).mean):
            break
        since = series[end - 3][0]
    return since


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _displacement(rows: Sequence[Row]) -> Finding | None:
    """The chosen reply is to rise against the rejected one; a loss of margins is content when both fall."""
    series = _series(rows, "displacement/chosen")
    if not series:
        return None
    chosen = _last(series)
    if chosen.mean > -FELL or chosen.mean + 2 * chosen.error > 0:
        return None
    length = _tail(rows, "lengths/chosen")
    each = f" ({-chosen.mean / length:.2g} a token)" if length else ""
    fact = f"Chosen replies have lost {-chosen.mean:.3g} nats of log-probability{each}"
    rejected = _tail(rows, "displacement/rejected")
    if rejected is not None and rejected < 0:
        fact += f" and rejected ones {-rejected:.3g}: both fall, so what rises is in neither"
    entangled = _tail(rows, "entanglement/chosen_falls")
    if entangled is not None and entangled > BOTH:
        fact += (
            f"; in {_percent(entangled)} of the measured pairs a step on the rejected one takes the chosen one along"
        )
    mend = "Lower learning_rate, raise beta, or add a likelihood term on the chosen reply."
    return Finding("displacement", fact, mend, _since(series, lambda value: value < -FELL))


def _length(rows: Sequence[Row]) -> Finding | None:
    """Length as a short cut: the implicit reward prefers the longer reply more often than the data does, or always."""
    excess = _series(rows, "lengths/longer_rewarded", "lengths/longer_chosen")
    if not excess:
        return None
    over, rewarded, chosen = _last(excess), _tail(rows, "lengths/longer_rewarded"), _tail(rows, "lengths/longer_chosen")
    if rewarded is None or chosen is None:
        return None
    said = f"The implicit reward prefers the longer reply in {_percent(rewarded)} of the pairs"
    if over.mean > EXCESS and over.mean > 2 * over.error:
        fact = f"{said}, the data only in {_percent(chosen)}: it leans on length"
        mend = "The length probe says whether replies grow; if so, divide by length, raise beta, or stop earlier."
        return Finding("length", fact, mend, _since(excess, lambda value: value > EXCESS))
    if chosen > ONE_SIDED and rewarded > ONE_SIDED:
        fact = f"{said}, as the data does in {_percent(chosen)}: length alone would rank them"
        mend = "Balance the pairs by length, or divide log-probabilities by length."
        return Finding("balance", fact, mend)
    return None


def _saturation(rows: Sequence[Row]) -> Finding | None:
    """Pairs that pull with less than a twentieth of what they did at the start teach next to nothing."""
    series = _series(rows, "saturated")
    if not series or (share := _last(series)).mean < SPENT:
        return None
    fact = f"The margin saturates: {_percent(share.mean)} of the pairs no longer pull"
    mend = "Train for fewer epochs, or lower learning_rate: further steps serve the few pairs that still do."
    return Finding("saturation", fact, mend, _since(series, lambda value: value >= SPENT))


def _loss(rows: Sequence[Row]) -> Finding | None:
    """The last quarter against the first."""
    series = _series(rows, "loss")
    if len(series) < 2 * LEAST:
        return None
    first, last = _level(series[: _window(series)]), _last(series)
    change, error = last.mean - first.mean, math.hypot(first.error, last.error)
    size = abs(first.mean)
    figures = f"from {first.mean:.4g} to {last.mean:.4g}"
    if change > 2 * error and change > ROSE * size:
        return Finding("loss", f"The loss rose {figures}", "Lower learning_rate, or warm up for longer.")
    if abs(change) + 2 * error < STILL * size:
        mend = "Raise learning_rate or train for longer; if it stays, see whether the data can be told apart at all."
        return Finding("loss", f"The loss hardly moved: {figures}", mend)
    return None


READS = (
    "step", "loss", "displacement/chosen", "displacement/rejected", "saturated",
    "lengths/chosen", "lengths/longer_rewarded", "lengths/longer_chosen", "entanglement/chosen_falls",
)  # fmt: skip
"""The metrics that decide: a checkpoint keeps these of each row."""
