"""The page: one file that needs nothing else, not even a network.

What comes from outside (names, replies, recipes) is escaped where it is set; figures travel as JSON in which ``<`` is
written as an escape, so no text can end a script. A content security policy forbids every request all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from truing.core.errors import bad
from truing.report import grids, ran, replies, show, tables, tax, training
from truing.report.front import front
from truing.report.load import Arm, RunFolder
from truing.report.looks import BASE, by_curve, of_curves, of_trained
from truing.report.path import path
from truing.report.plot import Figure
from truing.report.study import Study
from truing.report.trade_offs import trade_offs
from truing.report.words import verdict


def page(study: Study) -> str:
    """The whole document.

    Raises:
        InputError: plotly is not installed.
    """
    drawn: dict[str, Figure] = {}
    sections = [
        ("front", "The front", _front(study, drawn)),
        ("tax", "Alignment against its tax", _tax(study, drawn)),
        ("measures", "All measures", _measures(study)),
        ("grids", "Over the whole grid", _grids(study, drawn)),
        ("trade-offs", "Other trade-offs", _trade_offs(study, drawn)),
        ("path", "From the base to each arm", _path(study, drawn)),
        ("training", "Training", _training(study, drawn)),
        ("replies", "Replies side by side", replies.accordion(study)),
        ("run", "What was run", "".join(_run(study, run) for run in study.runs)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    return Template(_part("page.html")).substitute(
        title=escape(study.title),
        style=_part("page.css"),
        links="".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown),
        facts=" <i>·</i> ".join(f"<span>{escape(fact)}</span>" for fact in _key_facts(study)),
        verdict=_verdict(study),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in study.notes),
        body="".join(f'<section id="{a}"><h2>{title}</h2>{body}</section>' for a, title, body in shown),
        plotly=_plotly() if drawn else "",
        figures=inert(json.dumps(drawn, ensure_ascii=True, allow_nan=False)),
        script=_part("page.js"),
    )


def inert(data: str) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open a comment."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (files("truing.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The plotly library as one script, which cannot end its own element."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        mend = "Install it with: pip install 'truing[report]'"
        raise bad("report", "the figures need plotly, which is not installed", mend) from None
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _key_facts(study: Study) -> list[str]:
    models = [run.facts.get("model") for run in study.runs]
    names = [str(model["name"]) for model in models if isinstance(model, dict) and model.get("name")]
    n = max((m.n for m in study.measures if m.probe == "win_rate"), default=0)
    seeds = dict.fromkeys(str(run.facts["seed"]) for run in study.runs if run.facts.get("seed") is not None)
    days = dict.fromkeys(str(run.facts.get("finished") or "")[:10] for run in study.runs)
    facts = [*dict.fromkeys(names), f"{len(study.arms)} arm{'s' if len(study.arms) != 1 else ''}"]
    facts += [f"{n} held-out prompts"] if n else []
    facts += [f"seed {', '.join(seeds)}"] if seeds else []
    return [*facts, *filter(None, days)]


def _verdict(study: Study) -> str:
    said = verdict(study, mark=lambda name: f"<b>{escape(name)}</b>")
    rest = (("What it costs", said.costs), ("How sure we are", said.sure))
    blocks = "".join(f"<div><h3>{head}</h3><p>{text}</p></div>" for head, text in rest)
    return f'<p class="lead">{said.wins}</p><div class="pair">{blocks}</div>'


_FRONT = (
    "Up is better, left is closer to the base. Bars are 95\u202f% intervals. Ringed arms, joined by the band, are the "
    "<b>Pareto set</b>: no other arm has both a higher win rate and a lower KL, by the estimates, not the intervals. "
    "The dotted line is best-of-n in theory for n = 2, 4, 8 …: KL = log n − (n − 1)/n and win rate n/(n + 1). It holds "
    "for continuous rewards; with discrete ones, which tie, both are upper bounds."
)
_HOLLOW = " A hollow marker and ≤ stand where only an upper bound of the KL is known: the arm may lie further left."


def _front(study: Study, drawn: dict[str, Figure]) -> str:
    if not study.points:
        return ""
    drawn["front"] = front(study)
    on_it = {p.arm.name for p in study.points}
    absent = [arm.name for arm in study.candidates if arm.name not in on_it]
    caption = _FRONT + (_HOLLOW if any(p.is_bound for p in study.points) else "")
    caption += f" Not drawn, for want of a win rate or a KL: {escape(', '.join(absent))}." if absent else ""
    label = "Win rate over KL from the base, one curve a method. The table below holds the same numbers."
    intro = "<p>What each arm gains over the base, against how far it had to move for it.</p>"
    return f"{intro}{_legend(study, [p.arm for p in study.points], theory=True)}{_figure('front', label, caption)}"


_TAX = (
    "Up is better, left is cheaper; the base stands at no cost, and what lies left of it has become better there too. "
    "Bars are 95\u202f% intervals. Ringed arms are the Pareto set of their figure, by the estimates, not the intervals."
)


def _tax(study: Study, drawn: dict[str, Figure]) -> str:
    found = tax.taxed(study)
    if not found:
        return ""
    shown = ["<p>What each arm gains, against what it has forgotten of what has nothing to do with its alignment.</p>"]
    shown.append(_legend(study, [point.arm for _, _, points in found for point in points], theory=False))
    for number, (heading, figure) in enumerate(tax.figures(study), 1):
        drawn[f"tax-{number}"] = figure
        shown.append(_figure(f"tax-{number}", heading, _TAX if number == len(found) else "", heading=heading))
    return "".join(shown)


def _legend(study: Study, arms: Sequence[Arm], *, theory: bool) -> str:
    looks = of_curves(study)
    entries = [f"{tables.glyph(BASE)}base"]
    for curve, own in by_curve(list({arm.name: arm for arm in arms}.values())).items():
        dials = dict.fromkeys(show.dial_name(arm.dial[0]) for arm in own if arm.dial)
        along = f" <small>along {escape(', '.join(dials))}</small>" if dials and len(own) > 1 else ""
        entries.append(f"{tables.glyph(looks[curve])}{escape(curve)}{along}")
    entries += ['<span class="ring"></span>Pareto set']
    entries += ['<span class="dots"></span>best-of-n in theory'] if theory else []
    return _list(entries)


def _list(entries: Sequence[str]) -> str:
    return '<ul class="legend">' + "".join(f"<li>{entry}</li>" for entry in entries) + "</ul>"


def _figure(key: str, label: str, caption: str = "", *, heading: str = "") -> str:
    """An empty place for a figure; the script fills it."""
    head = f"<h3>{escape(heading)}</h3>" if heading else ""
    foot = f"<figcaption>{caption}</figcaption>" if caption else ""
    place = f'<div class="plot" data-figure="{escape(key)}" role="img" aria-label="{escape(label)}"></div>'
    return f"<figure>{head}{place}{foot}</figure>"


def _panels(panels: Sequence[tuple[str, Figure]], kind: str, drawn: dict[str, Figure]) -> str:
    """Small multiples, in as many columns as there is room for."""
    shown = []
    for number, (heading, figure) in enumerate(panels):
        drawn[f"{kind}-{number}"] = figure
        shown.append(_figure(f"{kind}-{number}", heading, heading=heading))
    return f'<div class="panels">{"".join(shown)}</div>' if shown else ""


def _trade_offs(study: Study, drawn: dict[str, Figure]) -> str:
    panels = _panels(trade_offs(study), "trade", drawn)
    intro = "<p>Colours and shapes as in the front; the dotted line is the base.</p>"
    return intro + panels if panels else ""


def _path(study: Study, drawn: dict[str, Figure]) -> str:
    figure = path(study)
    if figure is None:
        return ""
    drawn["path"] = figure
    legend = _list([f"{tables.glyph(look)}{escape(curve)}" for curve, look in of_curves(study).items()])
    caption = "What stands above the straight line between a path's ends is its barrier. Bars are 95\u202f% intervals."
    return legend + _figure("path", "Loss on neutral text along the straight path of weights to each arm.", caption)


def _measures(study: Study) -> str:
    count = sum(study.find(arm.name, "win_rate") is not None for arm in study.candidates)
    flattered = f" The best of {count} was picked after looking, which flatters it a little." if count > 2 else ""
    duels = tables.duels(study)
    intro = "<h3>Head to head</h3><p>How often the judge prefers the row's reply to the column's.</p>"
    return (
        "<p>The estimate, and below it the 95\u202f% interval. <mark>Strong</mark> is the best arm of a column, "
        'the base aside; <mark class="level">faint</mark> arms cannot be told apart from it: their intervals overlap.'
        f"{flattered}</p>{tables.measures(study)}{intro + duels if duels else ''}"
    )


def _grids(study: Study, drawn: dict[str, Figure]) -> str:
    found = grids.tables(study)
    if not found:
        return ""
    intro = (
        "<p>The best of many points flatters a method that needs luck in tuning. Here is every point: the box goes "
        "from quartile to quartile, the line is the median. The last column is the share of points that beat "
        f"<b>{escape(grids.baseline(study))}</b>, by the estimates.</p>"
    )
    shown = "".join(f"<h3>{escape(title)}</h3>{tables.plain(title, heads, rows)}" for title, heads, rows in found)
    return intro + _panels(grids.figures(study), "grid", drawn) + shown


def _training(study: Study, drawn: dict[str, Figure]) -> str:
    panels = _panels(training.curves(study), "training", drawn)
    if not panels:
        return ""
    lines = of_trained(study).items()
    legend = _list([f'<span class="line" style="background:{look.css}"></span>{escape(arm)}' for arm, look in lines])
    thin = f" Long logs are averaged down to at most {training.MOST} points." if training.shortened(study) else ""
    return (
        f"{_remarks(study)}<p>Solid lines are training, dotted ones the evaluation split. Log-probabilities are shown "
        f"apart because a margin can widen while both fall.{thin}</p>{legend}{panels}"
    )


def _remarks(study: Study) -> str:
    """What went wrong in training, arm by arm, and where nothing did."""
    looks, entries = of_trained(study), []
    for arm, sentences in training.remarks(study):
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        entries.append(f'<li style="border-color:{looks[arm].css}"><b>{escape(arm)}</b>{said}</li>')
    rest = training.untroubled(study, mark=lambda name: f"<b>{escape(name)}</b>")
    return (f'<ul class="remarks">{"".join(entries)}</ul>' if entries else "") + (f"<p>{rest}</p>" if rest else "")


def _run(study: Study, run: RunFolder) -> str:
    head = f'<h3 class="of">{escape(run.name)}</h3>' if len(study.runs) > 1 else ""
    facts = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in ran.facts(run))
    parts = [head, f'<dl class="facts">{facts}</dl>' if facts else ""]
    if rows := ran.ledger(run):
        parts.append("<h3>Data: what became of every row</h3>" + tables.plain("Data", ran.LEDGER, rows))
    parts.append("<h3>Arms</h3>" + tables.plain("Arms as they were run", ran.ARMS, ran.arms(run)))
    if recipe := ran.recipe(run):
        parts.append(f'<h3>Recipe</h3><pre tabindex="0">{escape(recipe)}</pre>')
    return "".join(parts)
