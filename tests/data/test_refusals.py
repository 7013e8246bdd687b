"""Prompts to be refused or not: read as they stand, or refused with every fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truing.core.errors import InputError
from truing.core.policy import Message, user
from truing.data.refusals import load_refusals

UNSAFE = {"prompt": "do harm", "category": "violence", "target": "Sure"}
SAFE = {"prompt": "kill a process", "type": "homonyms"}


def test_two_sources_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "harmful.jsonl"
    file.write_text(json.dumps(UNSAFE) + "\n" + json.dumps({**SAFE, "label": "safe"}) + "\n", encoding="utf-8")
    found = load_refusals({"source": str(file), "benign": [SAFE, {**UNSAFE, "label": "unsafe"}], "draws": 2}, "x")
    assert [(asked.prompt, asked.unsafe, asked.category) for asked in found.asked] == [
        (user("do harm"), True, "violence"), (user("kill a process"), False, "homonyms"),
        (user("kill a process"), False, "homonyms"), (user("do harm"), True, "violence"),
    ]  # fmt: skip
    assert [asked.rejected for asked in found.of(unsafe=True)] == ["Sure", "Sure"]
    assert (found.settings.draws, found.settings.temperature) == (2, 0.0)
    assert load_refusals(str(file), "x").digest != found.digest
    assert load_refusals({"source": {"source": str(file), "limit": 1}}, "x").asked == found.asked[:1]


def test_turns_and_replies() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (asked,) = load_refusals([{"prompt": turns, "chosen": "no", "rejected": "yes"}], "x").asked
    assert asked.prompt == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert (asked.chosen, asked.rejected, asked.unsafe) == ("no", "yes", True)


def test_every_fault_is_told_at_once() -> None:
    rows = [UNSAFE, {"prompt": " "}, {"prompt": [{"role": "user"}]}, {**SAFE, "label": "fine"}, {**SAFE, "chosen": 3}]
    with pytest.raises(InputError) as refused:
        load_refusals({"source": rows, "drawz": 1}, "evaluate.refusal")
    assert [(fault.place, fault.fact.split(" is ")[0]) for fault in refused.value.faults] == [
        ("evaluate.refusal", "RefusalSettings has no field 'drawz'"),
        ("evaluate.refusal:2", "'prompt'"),
        ("evaluate.refusal:3", "'prompt'"),
        ("evaluate.refusal:4", "'label'"),
        ("evaluate.refusal:5", "'chosen'"),
    ]
    with pytest.raises(InputError, match="names no source"):
        load_refusals({"draws": 1}, "x")
    with pytest.raises(InputError, match="has no rows"):
        load_refusals([], "x")
