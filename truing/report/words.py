"""Three sentences in plain words: which arm wins, what it costs, how sure we are.

Rules, not a model, write them, from the measures alone. They say less where the figures say less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truing.core.measures import Measure
from truing.report.load import Arm
from truing.report.show import PERCENT, apart, interval, overlap, percent, quantity, value
from truing.report.study import Study

Mark = Callable[[str], str]
FEW = 30
"""Below so many prompts a bootstrap interval covers less than it says."""


@dataclass(frozen=True)
class Verdict:
    """The sentences.

    Attributes:
        wins: which arm wins.
        costs: what it costs.
        sure: how sure we are.
        winner: the arm with the highest win rate that was told apart from the base, or None.
    """

    wins: str
    costs: str
    sure: str
    winner: str | None

    @property
    def sentences(self) -> tuple[str, str, str]:
        """In the order in which they are read."""
        return self.wins, self.costs, self.sure


def verdict(study: Study, mark: Mark = str) -> Verdict:
    """What the measures say.

    Args:
        study: the comparison.
        mark: sets a name that comes from outside (an arm's), e.g. escapes it and makes it bold. Everything else
            in the sentences is ours and holds no markup.
    """
    ranked = [(arm, win) for arm in study.candidates if (win := study.find(arm.name, "win_rate")) is not None]
    ranked.sort(key=lambda entry: -entry[1].value)
    if not ranked:
        return _nothing_to_rank(study, mark)
    top, win = ranked[0]
    rivals = [arm for arm, other in ranked[1:] if not _beats(study, (top, win), (arm, other))]
    told = side(win) == 1
    return Verdict(
        wins=_wins(top, win, study.references, mark),
        costs=_costs(study, top, mark),
        sure=_sure(study, top, win, rivals, mark),
        winner=top.name if told else None,
    )


def side(win: Measure) -> int:
    """1 where the whole interval of a win rate lies above 50 %, -1 below, 0 where it cannot be told."""
    if win.low is None or win.high is None:
        return (win.value > 0.5) - (win.value < 0.5) if win.kind == "exact" else 0
    return (win.low > 0.5) - (win.high < 0.5)


def _nothing_to_rank(study: Study, mark: Mark) -> Verdict:
    base = study.references[0]
    if not study.candidates:
        wins = f"Only {mark(base)} was measured, so there is nothing to compare yet."
    else:
        wins = "No win rate against the base was measured, so no arm can be called the winner."
    facts = []
    if length := study.find(base, "length"):
        facts.append(f"its replies take {quantity(length.value, 'tokens')} on average")
    if perplexity := study.find(base, "perplexity"):
        facts.append(f"its perplexity on neutral text is {value(perplexity)}")
    if satisfied := study.find(base, "satisfied"):
        facts.append(f"it keeps every constraint in {value(satisfied)} of its replies")
    costs = f"As for {mark(base)}: {listed(facts)}." if facts else "What the arms cost was not measured."
    n = max((m.n for m in study.measures), default=0)
    sure = f"The figures rest on {n} prompts" if n else "No number of prompts is recorded"
    return Verdict(wins, costs, f"{sure}{_seeds(study)}.", None)


def _bracket(win: Measure) -> str:
    return f"95{PERCENT} interval {interval(win)}" if interval(win) else "no interval was given"


def _wins(top: Arm, win: Measure, references: Sequence[str], mark: Mark) -> str:
    base = "the base" if len(references) == 1 else "its base"
    figure = f"{percent(win.value)} of comparisons ({_bracket(win)})"
    if side(win) == 1:
        return f"{mark(top.name)} wins: its reply is preferred to that of {base} in {figure}."
    if side(win) == 0:
        return f"No arm can be told apart from {base}: the best, {mark(top.name)}, is preferred in {figure}."
    return f"No arm beats {base}: even the best, {mark(top.name)}, is preferred in only {figure}."


def _sure(study: Study, top: Arm, win: Measure, rivals: Sequence[Arm], mark: Mark) -> str:
    prompts = f" (n = {win.n} prompts)" if win.n else ""
    prompts = f" (n = {win.n} prompts, so few that the interval itself is rough)" if 0 < win.n < FEW else prompts
    if side(win) == 0:
        return f"The interval holds 50{PERCENT}, so the difference may be chance{prompts}{_seeds(study)}."
    if side(win) == -1:
        return f"The whole interval lies below 50{PERCENT}{prompts}{_seeds(study)}."
    base = "the base" if len(study.references) == 1 else "its base"
    if 0 < win.n < FEW:
        clear, lead = f"By its interval {mark(top.name)} beats {base}{prompts}", ", and leads"
    else:
        clear = f"That {mark(top.name)} beats {base} is clear at 95{PERCENT} confidence{prompts}"
        lead = ", and so is its lead over"
    others = sum(study.find(arm.name, "win_rate") is not None for arm in study.candidates) - 1
    if rivals:
        names = [mark(arm.name) for arm in rivals[:3]]
        names += [f"{len(rivals) - 3} more"] if len(rivals) > 3 else []
        tail = f", but it cannot be told apart from {listed(names)}"
    elif others:
        tail = f"{lead} {'the other arm' if others == 1 else 'every other arm'}"
    else:
        tail = ""
    return f"{clear}{tail}{_seeds(study)}."


def _seeds(study: Study) -> str:
    """One seed says nothing of how much another would differ."""
    seeds = {str(run.facts["seed"]) for run in study.runs if run.facts.get("seed") is not None}
    return "; one seed was run, so differences between seeds are not in these figures" if len(seeds) == 1 else ""


def _beats(study: Study, left: tuple[Arm, Measure], right: tuple[Arm, Measure]) -> bool:
    """Whether the left arm is told apart from the right one: head to head where that was measured."""
    if direct := study.find(left[0].name, f"win_rate.{right[0].name}"):
        return side(direct) == 1
    if direct := study.find(right[0].name, f"win_rate.{left[0].name}"):
        return side(direct) == -1
    return apart(left[1], right[1])


def _costs(study: Study, top: Arm, mark: Mark) -> str:
    """The clauses that were measured, in the order in which a reader would ask."""
    base = base_of(study, top)
    clauses = []
    if distance := study.distance(top.name):
        bound = "at most " if distance.kind == "bound" or distance.probe == "kl_bound" else ""
        clauses.append(f"it moves {bound}{quantity(distance.value, distance.unit or 'nats')} away from the base")
    clauses += _changed(
        study, top.name, base, "length", "its replies are {share} {way}", "its replies are about as long"
    )
    clauses += _tax(study, top.name, base)
    clauses += _effort(study, top, base)
    if not clauses:
        return f"What {mark(top.name)} costs was not measured."
    said = listed(clauses)
    return f"{said[0].upper()}{said[1:]}."


def _changed(study: Study, arm: str, base: str, probe: str, change: str, same: str) -> list[str]:
    """A clause on a relative change against the base; none where one of the two is missing or zero."""
    mine, theirs = study.find(arm, probe), study.find(base, probe)
    if mine is None or theirs is None or theirs.value <= 0 or not math.isfinite(mine.value / theirs.value):
        return []
    ratio = mine.value / theirs.value - 1
    if abs(ratio) < 0.005 or overlap(mine, theirs):
        return [same]
    more, less = ("longer", "shorter") if probe == "length" else ("rises", "falls")
    return [change.format(share=percent(abs(ratio)), way=more if ratio > 0 else less)]


def _tax(study: Study, arm: str, base: str) -> list[str]:
    """A clause on neutral text: passage by passage against the base where that was measured, since passages differ more
    than models do.
    """
    change, same = "perplexity on neutral text {way} by {share}", "perplexity on neutral text does not measurably move"
    paired = study.find(arm, "perplexity.ratio")
    if paired is None or paired.low is None or paired.high is None:
        return _changed(study, arm, base, "perplexity", change, same)
    if paired.low <= 1 <= paired.high:
        return [same]
    return [change.format(share=percent(abs(paired.value - 1)), way="rises" if paired.value > 1 else "falls")]


def _effort(study: Study, top: Arm, base: str) -> list[str]:
    clauses = []
    mine, theirs = study.find(top.name, "cost.tokens"), study.find(base, "cost.tokens")
    if mine and theirs and theirs.value > 0 and mine.value / theirs.value >= 1.5:
        clauses.append(f"each reply takes {mine.value / theirs.value:.1f} times the tokens")
    seconds = study.find(top.name, "cost.seconds")
    if seconds and seconds.value > 0:
        clauses.append(f"it took {quantity(seconds.value, 's')}")
    trained = study.find(top.name, "cost.trained")
    if trained is not None:
        clauses.append(
            f"{quantity(trained.value, 'parameters')} parameters were trained"
            if trained.value
            else "nothing was trained"
        )
    return clauses


def base_of(study: Study, arm: Arm) -> str:
    """The name of the arm that this one was measured against: the reference of its own run."""
    for run, reference in zip(study.runs, study.references, strict=True):
        prefix = reference[: len(reference) - len(run.reference)]
        if arm.name.startswith(prefix) and any(prefix + a.name == arm.name for a in run.arms):
            return reference
    return study.references[0]


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
