"""The report as Markdown: the sentences, the table, the Pareto set, how training went, what was run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from truing.report import grids, ran, show, tax, training
from truing.report.load import RunFolder
from truing.report.study import Study
from truing.report.words import verdict


def page(study: Study) -> str:
    """All of it, ending in a newline."""
    said = verdict(study, mark=lambda name: f"**{plain(name)}**")
    parts = [f"# {plain(study.title)}", "\n".join(f"{sentence}  " for sentence in said.sentences).rstrip()]
    parts += ["\n".join(f"> {plain(note)}  " for note in study.notes).rstrip()] if study.notes else []
    parts += ["## Measures", _measures(study), _FOOT]
    if study.points:
        parts += ["## Pareto set", _pareto(study)]
    parts += _tax(study)
    if found := grids.tables(study):
        parts.append("## Over the whole grid")
        for title, heads, rows in found:
            parts += [
                f"### {plain(title)}",
                _table([plain(head) for head in heads], [[plain(c) for c in row] for row in rows]),
            ]
    if any(arm.training for arm in study.arms):
        parts += ["## Training", *_training(study)]
    for run in study.runs:
        title = "## What was run" if len(study.runs) == 1 else f"## What was run: {plain(run.name)}"
        parts += [title, *_run(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


_FOOT = (
    "Brackets hold 95 % intervals. Bold is the best arm of a column, the base aside; a dagger (†) marks arms whose "
    "interval overlaps the best one's. `≤` marks an upper bound."
)


def plain(text: str) -> str:
    """Text that Markdown and HTML inside Markdown leave as it is, on one line.

    Example:
        >>> plain("a|b <i>*")
        'a\\\\|b &lt;i&gt;\\\\*'
    """
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", re.sub(r"[\r\n\v\f\u0085\u2028\u2029]+", " ", safe))


def _measures(study: Study) -> str:
    probes = show.columns(study) + list(
        dict.fromkeys(m.probe for m in study.measures if m.probe.startswith("win_rate."))
    )
    heads = ["Arm", *(plain(_heading(probe)) for probe in probes)]
    tops = {probe: show.best(study, probe) for probe in probes}
    rows = []
    for arm in study.arms:
        cells = [plain(arm.name)]
        for probe in probes:
            cells.append(_cell(study, arm.name, probe, *tops[probe]))
        rows.append(cells)
    return _table(heads, rows)


def _heading(probe: str) -> str:
    kind, _, versus = probe.partition(".")
    return f"Win rate against {versus}" if kind == "win_rate" and versus else show.heading(probe)


def _cell(study: Study, arm: str, probe: str, first: frozenset[str], level: frozenset[str]) -> str:
    measure = study.find(arm, probe)
    if measure is None:
        return "–"
    bracket = f" ({show.interval(measure)})" if show.interval(measure) else ""
    n = f", n = {measure.n}" if measure.n else ""
    value = plain(show.value(measure))
    shown = f"**{value}**" if arm in first else f"{value} †" if arm in level else value
    return f"{shown}{plain(bracket)}{n}"


def _pareto(study: Study) -> str:
    if not study.pareto:
        return "No arm lies on the front: none beats the base's 50 % at any KL."
    lines = ["No other arm has both a higher win rate and a lower KL than these (by the estimates, not the intervals):"]
    at = {p.arm.name: p for p in study.points}
    for name in study.pareto:
        point = at[name]
        lines.append(f"- {plain(name)}: win rate {show.value(point.win)}, KL {show.value(point.distance)}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _tax(study: Study) -> list[str]:
    """The arms that nothing beats, for every tax that was measured."""
    parts = []
    for cost, gain, points in tax.taxed(study):
        head, up = cost.heading, show.heading(gain)
        lines = [
            f"- {plain(p.arm.name)}: {up.lower()} {show.value(p.win)}, {head.lower()} {show.value(p.distance)}"
            + (f" ({show.interval(p.distance)})" if show.interval(p.distance) else "")
            for p in tax.undominated(study, gain, points)
        ]
        none = "No arm lies on this front: none gains on the base at any cost."
        parts += [f"## {head} against {up.lower()}", "\n".join(lines) or none]
    return parts


def _training(study: Study) -> list[str]:
    lines = []
    for arm, sentences in training.remarks(study):
        lines += [f"- **{plain(arm)}**", *(f"  - {plain(sentence)}" for sentence in sentences)]
    return ["\n".join(lines), training.untroubled(study, mark=lambda name: f"**{plain(name)}**")]


def _run(run: RunFolder) -> list[str]:
    parts = ["\n".join(f"- {label}: {plain(value)}" for label, value in ran.facts(run))]
    if rows := ran.ledger(run):
        parts += ["### Data", _table(ran.LEDGER, [[plain(cell) for cell in row] for row in rows])]
    parts += ["### Arms", _table(ran.ARMS, [[plain(cell) for cell in row] for row in ran.arms(run)])]
    if recipe := ran.recipe(run):
        parts += ["### Recipe", _fenced(recipe)]
    return parts


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text.rstrip()}\n{fence}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)
