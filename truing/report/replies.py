"""What the arms said to the same prompts, side by side. Model text is text: escaped, never read as HTML."""

from __future__ import annotations

from html import escape

from truing.report.load import Reply, Sample
from truing.report.looks import BASE, of_curves
from truing.report.show import MINUS
from truing.report.study import Study
from truing.report.tables import glyph

SHOWN = 12
"""Prompts that are shown; the rest stays in samples.jsonl."""

_FIRST_WORDS = 110


def accordion(study: Study) -> str:
    """One fold a prompt, the first one open; empty where no reply was kept."""
    if not study.samples:
        return ""
    left = len(study.samples) - SHOWN
    more = f" {left} more are in samples.jsonl." if left > 0 else ""
    folds = "".join(_fold(study, sample, opened=i == 0) for i, sample in enumerate(study.samples[:SHOWN]))
    return f"<p>The same prompt to every arm, with the judge's score. Open a prompt to compare.{more}</p>{folds}"


def _fold(study: Study, sample: Sample, *, opened: bool) -> str:
    last = sample.chat[-1][1] if sample.chat else ""
    words = " ".join(last.split())
    title = words if len(words) <= _FIRST_WORDS else words[:_FIRST_WORDS].rstrip() + " …"
    scores = [reply.score for reply in sample.replies if reply.score is not None]
    top = max(scores) if len(set(scores)) > 1 else None
    cards = "".join(_card(study, reply, best=top is not None and reply.score == top) for reply in sample.replies)
    turns = "".join(
        f'<div class="turn"><span>{escape(role)}</span><div class="said">{escape(content)}</div></div>'
        for role, content in sample.chat
    )
    # A prompt that the title already shows whole is not repeated.
    chat = f'<div class="chat">{turns}</div>' if len(sample.chat) > 1 or title != last.strip() else ""
    return (
        f'<details class="prompt"{" open" if opened else ""}><summary>{escape(title) or "(empty prompt)"}</summary>'
        f'{chat}<div class="cards" role="region" aria-label="Replies" tabindex="0">{cards}</div></details>'
    )


def _card(study: Study, reply: Reply, *, best: bool) -> str:
    curves = {arm.name: arm.curve for arm in study.arms}
    look = of_curves(study).get(curves.get(reply.arm, ""), BASE)
    score = ""
    if reply.score is not None:
        score = f'<span class="score{" top" if best else ""}" title="the judge\'s score">{_score(reply.score)}</span>'
    cut = '<p class="cut">cut off at the length limit</p>' if reply.finish == "length" else ""
    text = escape(reply.text) if reply.text.strip() else '<i class="empty">(empty reply)</i>'
    name = escape(reply.arm).replace("/", "/<wbr>")
    head = f"<header>{glyph(look)}<span>{name}</span>{score}</header>"
    return f'<article>{head}<div class="said">{text}</div>{cut}</article>'


def _score(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)
