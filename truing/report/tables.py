"""The tables of the page. Every text that comes from outside passes :func:`escape`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from truing.core.measures import Measure
from truing.report import show
from truing.report.load import Arm
from truing.report.looks import BASE, Look, of_curves
from truing.report.study import Study
from truing.report.words import side

SHAPES = {
    "circle": "<circle cx='6' cy='6' r='4.6'/>",
    "square": "<rect x='1.8' y='1.8' width='8.4' height='8.4'/>",
    "diamond": "<path d='M6 .6 11.4 6 6 11.4 .6 6z'/>",
    "triangle-up": "<path d='M6 1.2 11.2 10.4H.8z'/>",
    "pentagon": "<path d='M6 .8 11.2 4.6 9.2 10.8H2.8L.8 4.6z'/>",
    "star": "<path d='M6 .3 7.5 4.3 11.8 4.5 8.4 7.2 9.6 11.4 6 9 2.4 11.4 3.6 7.2 .2 4.5 4.5 4.3z'/>",
    "hexagon": "<path d='M3.2 1.2H8.8L11.6 6 8.8 10.8H3.2L.4 6z'/>",
    "triangle-down": "<path d='M6 10.8 .8 1.6H11.2z'/>",
    "hourglass": "<path d='M1.5 1H10.5L1.5 11H10.5z'/>",
    "cross": "<path d='M4.3 1H7.7V4.3H11V7.7H7.7V11H4.3V7.7H1V4.3H4.3z'/>",
}


def glyph(look: Look) -> str:
    """The marker of a curve as a small inline picture."""
    shape = SHAPES.get(look.symbol, SHAPES["circle"])
    return f'<svg class="glyph" viewBox="0 0 12 12" aria-hidden="true" style="fill:{look.css}">{shape}</svg>'


def box(caption: str, head: Sequence[str], rows: Sequence[str], *, kind: str = "") -> str:
    """A table that scrolls inside its own box. Heads and rows are HTML; the caption is read by screen readers."""
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    label = escape(caption)
    return (
        f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table class="{kind}">'
        f'<caption class="quiet">{label}</caption><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def plain(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, all escaped."""
    body = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return box(caption, [escape(cell) for cell in head], body, kind="plain")


def measures(study: Study) -> str:
    """Arms as rows, probes as columns; value, interval, and n where a column does not share one."""
    probes = show.columns(study)
    shared = {probe: _shared_n(study, probe) for probe in probes}
    tops = {probe: show.best(study, probe) for probe in probes}
    looks = of_curves(study)
    rows = []
    for arm in study.arms:
        cells = [_cell(study, arm, probe, tops[probe], shared[probe] is None) for probe in probes]
        kind = ' class="reference"' if arm.name in study.references else ""
        rows.append(f"<tr{kind}>{_arm_head(study, arm, looks.get(arm.curve))}{''.join(cells)}</tr>")
    heads = ["Arm", *(_head(study, probe, shared[probe]) for probe in probes)]
    return box("All measures: one arm a row, one measure a column", heads, rows, kind="measures")


def duels(study: Study) -> str:
    """Win rate of the row's arm against the column's, for the pairs that were judged; empty where none were."""
    versus = list(dict.fromkeys(m.probe for m in study.measures if m.probe.startswith("win_rate.")))
    rows = []
    for arm in study.arms:
        found = [study.find(arm.name, probe) for probe in versus]
        if any(found):
            cells = "".join(_duel(measure) for measure in found)
            rows.append(f'<tr><th scope="row">{_broken(arm.name)}</th>{cells}</tr>')
    heads = ["", *(_broken(probe.removeprefix("win_rate.")) for probe in versus)]
    return box("Win rate of the row against the column", heads, rows, kind="measures duels") if rows else ""


def _duel(measure: Measure | None) -> str:
    if measure is None:
        return '<td class="none">–</td>'
    kind = {1: ' class="best"', 0: "", -1: ""}[side(measure)]
    n = f"n = {measure.n}" if measure.n else ""
    return f"<td{kind}>{_stack(measure, n)}</td>"


def _shared_n(study: Study, probe: str) -> int | None:
    """The n of a whole column, where it has one (0: nothing to say)."""
    counts = {m.n for arm in study.arms if (m := study.find(arm.name, probe)) is not None}
    return counts.pop() if len(counts) == 1 else None


def _head(study: Study, probe: str, n: int | None) -> str:
    known = show.PROBES.get(probe)
    ways = {m.better for m in study.measures if m.probe == probe}
    arrow = {"up": "higher is better", "down": "lower is better"}.get(ways.pop() if len(ways) == 1 else "", "")
    sign = {"higher is better": "↑", "lower is better": "↓"}.get(arrow, "")
    units = {m.unit for m in study.measures if m.probe == probe and m.unit in ("nats", "tokens")}
    small = " · ".join([*sorted(units), *([f"n = {n}"] if n and n > 1 else [])])
    title = ". ".join(part for part in (known.explanation if known else "", arrow) if part)
    mark = f'\u00a0<span class="way" aria-label="{arrow}">{sign}</span>' if sign else ""
    return f'<span title="{escape(title)}">{escape(show.heading(probe))}{mark}</span><small>{escape(small)}</small>'


def _arm_head(study: Study, arm: Arm, look: Look | None) -> str:
    """Marker and name; a ring round the marker, as in the figure, for the Pareto set."""
    picture = glyph(look or BASE)
    if arm.name in study.pareto:
        picture = (
            f'<span class="ringed" title="in the Pareto set">{picture}</span><span class="quiet">Pareto set:</span>'
        )
    return f'<th scope="row"><span class="arm">{picture}<span>{_broken(arm.name)}</span></span></th>'


def _broken(name: str) -> str:
    """An arm's name that may break after a slash."""
    return escape(name).replace("/", "/<wbr>")


def _cell(study: Study, arm: Arm, probe: str, top: tuple[frozenset[str], frozenset[str]], with_n: bool) -> str:
    measure = study.find(arm.name, probe)
    if measure is None:
        return '<td class="none">–</td>'
    kind = "best" if arm.name in top[0] else "level" if arm.name in top[1] else ""
    attributes = f' class="{kind}"' if kind else ""
    hint = ". ".join(part for part in (measure.note, f"n = {measure.n}" if measure.n else "", measure.kind) if part)
    small = f"n = {measure.n}" if with_n and measure.n else ""
    bound = study.find(arm.name, "kl_bound") if probe == "kl" and measure.kind != "bound" else None
    third = f"<small>≤{show.THIN}{show.number(bound.value)}</small>" if bound else ""
    return f'<td{attributes} title="{escape(hint)}">{_stack(measure, small)}{third}</td>'


def _stack(measure: Measure, n: str) -> str:
    """Value over interval. Units that the head states are not said again."""
    text = show.value(measure)
    if measure.unit in ("nats", "tokens"):
        text = text.removesuffix(show.THIN + measure.unit)
    under = " · ".join(part for part in (show.interval(measure, brief=True), n) if part)
    return f'<span class="value">{escape(text)}</span>' + (f"<small>{escape(under)}</small>" if under else "")
