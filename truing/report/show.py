"""Numbers and names as a reader sees them: the same in sentences, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.measures import Measure
from truing.report.load import Arm
from truing.report.study import Study

THIN = "\N{NARROW NO-BREAK SPACE}"
PERCENT = THIN + "%"
MINUS = "\N{MINUS SIGN}"
_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "lambda": "λ", "tau": "τ",
}  # fmt: skip


@dataclass(frozen=True)
class Probe:
    """How a probe is shown: its heading, and one line on how to read it."""

    heading: str
    explanation: str


PROBES: dict[str, Probe] = {
    "win_rate": Probe("Win rate", "how often the judge prefers the arm's reply to the base's; ties count half"),
    "reward": Probe("Reward", "mean score by the judge"),
    "satisfied": Probe("Satisfied", "replies that keep every constraint of their prompt"),
    "preference": Probe("Preference", "held-out pairs whose chosen reply has gained more on the base; ties count half"),
    "preference.likelihood": Probe("Likelier", "held-out pairs whose chosen reply is the more likely one"),
    "preference.per_token": Probe("Likelier a token", "the same by the mean over a reply's tokens"),
    "preference.chosen": Probe("Chosen", "change of the held-out chosen reply's log-probability against the base"),
    "preference.rejected": Probe("Rejected", "change of the held-out rejected reply's log-probability"),
    "kl": Probe("KL", "how far the arm has moved from the base, on the arm's own replies"),
    "kl_bound": Probe("KL bound", "the KL is at most this"),
    "length": Probe("Length", "tokens a reply"),
    "length.cut": Probe("Cut off", "replies that reached the token limit before their end"),
    "perplexity": Probe("Perplexity", "on neutral text: what alignment costs elsewhere (the tax)"),
    "barrier": Probe("Barrier", "how much worse than its ends the straight path of weights from the base is, at most"),
    "barrier.midpoint": Probe("Halfway", "the loss there above the mean of the ends; below 0 is better than both"),
    "perplexity.ratio": Probe("Perplexity, change", "the arm's perplexity on neutral text over the base's"),
    "multiple_choice": Probe("Knowledge", "questions of general knowledge whose right choice is the likeliest a token"),
    "multiple_choice.plain": Probe("Knowledge, in all", "the same by the log-probability of the whole choice"),
    "multiple_choice.change": Probe("Knowledge, change", "share of right answers less the base's"),
    "forget_quality": Probe(
        "Forget quality", "p-value: is what was to be forgotten told apart from a model that never saw it?"
    ),
    "forget_quality.distance": Probe("Forget distance", "between truth ratios and those of a model that never saw it"),
    "model_utility": Probe("Model utility", "what is left of the facts that were to be kept"),
    "refusal": Probe("Refused", "replies to unsafe prompts that refuse"),
    "refusal.over": Probe("Over-refused", "replies to safe prompts that refuse"),
    "drift": Probe("Drift", "of refusals on unsafe prompts, against the aligned model"),
    "drift.over": Probe("Over-drift", "of refusals on safe prompts, against the aligned model"),
    "drift.chosen": Probe("Safe, likelier", "change of the log-probability of replies that should be given, a token"),
    "drift.rejected": Probe("Unsafe, likelier", "change of the log-probability of replies that should not be given"),
    "embedding_attack.clean": Probe("Harm, asked", "log-probability of harmful replies, nats a token"),
    "embedding_attack.0.05": Probe("Harm, attacked", "the same, prompts shifted by 0.05 of an embedding"),
    "embedding_attack.0.1": Probe("Harm, attacked twice as far", "the same, prompts shifted by 0.1 of an embedding"),
    "cost.seconds": Probe("Time", "spent on the arm"),
    "cost.tokens": Probe("Tokens a reply", "generated for each reply that is given"),
    "cost.memory": Probe("Peak memory", "while the arm was made"),
    "cost.trained": Probe("Trained", "parameters that training changed"),
}


def heading(probe: str) -> str:
    """A probe's name in a table head."""
    known = PROBES.get(probe)
    return known.heading if known else probe.replace("_", " ").replace(".", ", ").capitalize()


def columns(study: Study) -> list[str]:
    """Probes that were taken, known ones first; wins against named arms and points of a path are not among them.

    A KL bound has a column of its own only where some arm has no KL beside it.
    """
    taken = dict.fromkeys(m.probe for m in study.measures if not m.probe.startswith(("win_rate.", "path.")))
    if all(study.find(m.arm, "kl") for m in study.measures if m.probe == "kl_bound"):
        taken.pop("kl_bound", None)
    return [p for p in PROBES if p in taken] + [p for p in taken if p not in PROBES]


def number(value: float, *, figures: int = 3) -> str:
    """A value to three significant figures, large ones without an exponent.

    Example:
        >>> number(0.012345), number(134515008), number(12.0)
        ('0.0123', '134,515,008', '12.0')
    """
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    decimals = max(figures - 1 - math.floor(math.log10(abs(value))), 0)
    if decimals > 6:
        return f"{value:.{figures - 1}e}".replace("-", MINUS)
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(value: float) -> str:
    """A share as a percentage; one decimal only below 10 % and above 90 %, where it tells something."""
    decimals = 1 if 0 < value < 0.0995 or 0.9005 < value < 1 else 0
    return f"{100 * value:.{decimals}f}{PERCENT}".replace("-", MINUS)


_SCALES: dict[str, Sequence[tuple[float, str]]] = {
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "parameters": ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1, "")),
    "s": ((3600, "h"), (60, "min"), (1, "s")),
}
_ALIASES = {"seconds": "s", "params": "parameters", "fraction": "probability", "byte": "bytes"}


def quantity(value: float, unit: str) -> str:
    """A value with its unit, scaled for reading.

    Example:
        >>> quantity(2.5e9, "bytes"), quantity(90, "s"), quantity(0.5, "nats")
        ('2.50\u202fGB', '1.5\u202fmin', '0.500\u202fnats')
    """
    unit = _ALIASES.get(unit, unit)
    if unit == "probability":
        return percent(value)
    if unit == "s" and 0 < value < 0.1:
        return f"under 0.1{THIN}s"
    if unit in _SCALES:
        scale, name = next(((s, n) for s, n in _SCALES[unit] if abs(value) >= s), (1.0, _SCALES[unit][-1][1]))
        if value == 0:
            scale, name = 1.0, "" if unit == "parameters" else unit if unit == "s" else "B"
        figures = 2 if unit == "s" and abs(value / scale) < 10 else 3
        return number(value / scale, figures=figures) + (THIN + name if name else "")
    return number(value) + (THIN + unit if unit else "")


def is_exact(measure: Measure) -> bool:
    """Whether there is no sampling error: the interval, if any, is a point."""
    return measure.low is None or measure.high is None or measure.low == measure.high


def value(measure: Measure) -> str:
    """The estimate with its unit; a bound is marked by ``≤``."""
    text = quantity(measure.value, measure.unit)
    return f"≤{THIN}{text}" if measure.kind == "bound" else text


def interval(measure: Measure, *, brief: bool = False) -> str:
    """The 95 % interval without repeating the unit, or nothing where there is none; ``brief`` for a table."""
    if measure.low is None or measure.high is None or measure.low == measure.high:
        return ""
    to = "\N{EN DASH}" if brief and measure.low >= 0 else " to "
    unit = _ALIASES.get(measure.unit, measure.unit)
    if unit == "probability":
        return f"{percent(measure.low).removesuffix(PERCENT)}{to}{percent(measure.high)}"
    if unit in _SCALES:
        return f"{quantity(measure.low, unit)}{to}{quantity(measure.high, unit)}"
    return f"{number(measure.low)}{to}{number(measure.high)}"


def dial(arm: Arm, *, name: bool = True) -> str:
    """``β = 0.1``, or the value alone; nothing for an arm without a dial."""
    if arm.dial is None:
        return ""
    label = _GREEK.get(arm.dial[0], arm.dial[0])
    return f"{label} = {arm.dial[1]:g}" if name else f"{arm.dial[1]:g}"


def dial_name(field: str) -> str:
    """The swept field, by its Greek letter where it has one."""
    return _GREEK.get(field, field)


def apart(left: Measure, right: Measure) -> bool:
    """Whether two intervals do not overlap: a careful test of a difference. False where one is unknown."""
    if left.low is None or left.high is None or right.low is None or right.high is None:
        return left.kind == right.kind == "exact" and left.value != right.value
    return left.low > right.high or right.low > left.high


def overlap(left: Measure, right: Measure) -> bool:
    """Whether both intervals are known and share a value."""
    return None not in (left.low, left.high, right.low, right.high) and not apart(left, right)


def best(study: Study, probe: str) -> tuple[frozenset[str], frozenset[str]]:
    """The best arms of a column (the base aside; several where they are equal), and those that overlap them.

    Nobody is best where ``better`` is ``none``, where fewer than two arms were measured, where more than half share
    the best value, or where no arm can be told apart from the best.
    """
    rows = {arm.name: m for arm in study.candidates if (m := study.find(arm.name, probe)) is not None}
    directions = {m.better for m in rows.values()} - {"none"}
    if len(rows) < 2 or len(directions) != 1:
        return frozenset(), frozenset()
    top = max(rows.values(), key=lambda m: m.value if directions == {"up"} else -m.value)
    first = frozenset(arm for arm, m in rows.items() if m.value == top.value)
    level = frozenset(arm for arm, m in rows.items() if arm not in first and overlap(m, top))
    tells_nothing = len(first | level) == len(rows) or len(first) > len(rows) / 2
    return (frozenset(), frozenset()) if tells_nothing else (first, level)
