"""What comes from outside stays text: in names, replies, recipes, figures and notes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_helpers import MakeRun, Reader, kl, page_of, win

from truing.report import document

NASTY = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", "<!--", "\"'><b>", "a`|*_$c0 ${x}"]


@pytest.fixture
def nasty(make_run: MakeRun) -> Path:
    """Markup in every place where text comes from outside."""
    arms: dict[str, Any] = {"base": {}}
    for number, text in enumerate(NASTY):
        log = [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)]
        note = {"note": text}
        arms[text] = {"_dial": [text, number], "_training": log, **win(0.6, **note), **kl(1.0), text: {"value": 1.0}}
        arms[text] |= {"reward": {"value": 1.0, "unit": text}, f"win_rate.{text}": {"value": 0.5}}
    replies = [{"arm": text, "text": text, "score": 0.5, "finish": text} for text in NASTY]
    return make_run(
        arms,
        folder="nasty",
        name="".join(NASTY),
        samples=[{"chat": [{"role": text, "content": text} for text in NASTY], "replies": replies}],
        recipe={text: [text] for text in NASTY},
        versions={text: text for text in NASTY},
        machine={text: text for text in NASTY},
        model={"name": NASTY[0], "fingerprint": NASTY[1]},
        data={text: {"source": text, "digest": text, "ledger": {"reasons": {text: 1}}} for text in NASTY},
        status=NASTY[0],
        finished=NASTY[1],
    )


def test_nothing_from_outside_becomes_markup(nasty: Path, trial: Path) -> None:
    """A page full of markup has no kind of element, script or handler that a harmless page lacks."""
    seen = Reader(page_of(nasty))
    allowed = {tag for tag, _ in Reader(page_of(trial)).elements}
    assert {tag for tag, _ in seen.elements} <= allowed
    assert len(seen.scripts) == 3
    assert not [a for _, attributes in seen.elements for a in attributes if a.startswith("on")]
    for text in NASTY:
        assert text in seen.text


def test_scripts_end_where_we_end_them(nasty: Path) -> None:
    page = page_of(nasty)
    assert page.count("</script>") == 3
    assert "<script" not in page.split("<script>", 1)[1].split("</script>")[0]
    names = {trace.get("name") for trace in Reader(page).figures["front"]["data"]}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in names


def test_plotly_reads_no_tag_in_a_name(nasty: Path) -> None:
    """Only our own ``<b>`` and ``<br>`` may stand in what plotly shows."""

    def strings(value: object) -> list[str]:
        if isinstance(value, dict):
            return [s for entry in value.values() for s in strings(entry)]
        if isinstance(value, list):
            return [s for entry in value for s in strings(entry)]
        return [value] if isinstance(value, str) else []

    for shown in strings(Reader(page_of(nasty)).figures):
        assert not re.sub(r"</?b>|<br>", "", shown).count("<"), shown


@pytest.mark.parametrize("text", [*NASTY, "\u2028 \ud83d \N{GRINNING FACE}"])
def test_json_inside_a_script_holds_no_markup_and_says_the_same(text: str) -> None:
    shown = document.inert(json.dumps({text: text}))
    assert not set("<>&") & set(shown)
    assert json.loads(shown) == {text: text}
