"""What was run, as rows of text that the page and the Markdown share. Nothing here is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from truing.report.load import RunFolder
from truing.report.show import quantity

LEDGER = ("Data", "Source", "Kept", "Repaired", "Shortened", "Refused", "Tokens lost", "Why", "Digest")
ARMS = ("Arm", "Steps", "Time", "Artefact")
_COUNTS = ("kept", "repaired", "shortened", "refused", "tokens_lost")


def recipe(run: RunFolder) -> str:
    """The recipe as it was run, as YAML; empty where none was written down."""
    import yaml

    plan = run.facts.get("recipe")
    return yaml.safe_dump(plan, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88) if plan else ""


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """(label, value): model, seed, time, machine, versions."""
    model = _mapping(run.facts.get("model"))
    rows = [
        ("Model", str(model.get("name", ""))),
        ("Model fingerprint", str(model.get("fingerprint", ""))),
        ("Reference arm", run.reference),
        ("Seed", _text(run.facts.get("seed"))),
        ("Judge", _text(run.facts.get("judge"))),
        ("Prompts", _text(run.facts.get("prompts"))),
        ("Started", _when(run.facts.get("started"))),
        ("Finished", _when(run.facts.get("finished"))),
        ("Time", quantity(float(run.facts["seconds"]), "s") if _is_number(run.facts.get("seconds")) else ""),
        ("Machine", _inline(run.facts.get("machine"))),
        ("Versions", _inline(run.facts.get("versions"))),
        ("Notes", _inline(run.facts.get("notes"))),
        ("Status", _text(run.facts.get("status"))),
    ]
    return [(label, value) for label, value in rows if value]


def ledger(run: RunFolder) -> list[tuple[str, ...]]:
    """One row for each field of the data, under the headings of :data:`LEDGER`."""
    rows = []
    for name, entry in _mapping(run.facts.get("data")).items():
        entry = _mapping(entry)
        counts = _mapping(entry.get("ledger"))
        cells = [_count(counts.get(key)) for key in _COUNTS]
        rows.append((str(name), _text(entry.get("source")), *cells, _reasons(counts), _text(entry.get("digest"))))
    return rows


def arms(run: RunFolder) -> list[tuple[str, ...]]:
    """One row for each arm, under the headings of :data:`ARMS`."""
    return [
        (
            arm.name,
            " → ".join(arm.steps) or "as it is",
            quantity(arm.seconds, "s") if arm.seconds is not None else "",
            arm.artefact or "",
        )
        for arm in run.arms
    ]


def _reasons(counts: Mapping[str, Any]) -> str:
    """Reasons as the data contract writes them (a list of entries) or as a plain mapping of reason to count."""
    reasons = counts.get("reasons")
    if isinstance(reasons, Mapping):
        return ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
    if isinstance(reasons, Sequence) and not isinstance(reasons, str):
        entries = [_mapping(entry) for entry in reasons]
        return ", ".join(f"{e.get('count', '?')} × {e.get('reason', '?')} ({e.get('status', '?')})" for e in entries)
    return ""


def _count(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{sum(v for v in value.values() if _is_number(v)):,}"
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _when(value: object) -> str:
    """``2026-11-21 09:12:04 UTC+00:00`` from ISO; anything else as it stands."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return _text(value)
    return f"{moment:%Y-%m-%d %H:%M:%S} {moment.tzname() or ''}".rstrip()


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items() if entry is not None)
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    return _text(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
