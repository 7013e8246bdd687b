"""The project's own prompts, whose constraints a program can check, and its neutral passages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, bad, did_you_mean
from truing.core.policy import Chat, user

SPLITS = ("train", "test")


@dataclass(frozen=True)
class PromptSet:
    """Prompts and what a reply to each must meet.

    Attributes:
        prompts: one user turn each, in the order of the file.
        ids: the name of each prompt.
        constraints: text of a prompt -> rows ``{"kind": ..., settings}``. What a kind means is for
            :mod:`truing.judges` to say.
        digest: SHA-256 of the rows, hexadecimal: two sets with one digest hold the same.
    """

    prompts: tuple[Chat, ...]
    ids: tuple[str, ...]
    constraints: Mapping[str, tuple[Mapping[str, object], ...]]
    digest: str


def load_promptset(name: str = "constraints", split: str | None = None) -> PromptSet:
    """A prompt set that is shipped, or one from a file of the same form.

    Each line is ``{"id": ..., "split": "train" | "test", "prompt": ..., "constraints": [{"kind": ...}]}``.

    Args:
        name: ``constraints``, or the path of a ``.jsonl`` file.
        split: ``train``, ``test``, or None for both.

    Raises:
        InputError: no such set or split, or rows that are not of that form; every fault at once.
    """
    if split is not None and split not in SPLITS:
        raise bad(f"prompt set {name}", f"there is no split {split!r}", did_you_mean(split, SPLITS))
    rows = [row for row in _rows(name) if split in (None, row["split"])]
    if not rows:
        raise bad(f"prompt set {name}", f"it holds no prompts{f' of the split {split}' if split else ''}")
    text = "\n".join(json.dumps(row, sort_keys=True, ensure_ascii=False) for row in rows)
    return PromptSet(
        prompts=tuple(user(row["prompt"]) for row in rows),
        ids=tuple(row["id"] for row in rows),
        constraints={row["prompt"]: tuple(row["constraints"]) for row in rows},
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def load_neutral() -> tuple[str, ...]:
    """Passages of plain prose, 60 to 120 words each, on which perplexity shows what an alignment cost."""
    return tuple(json.loads(line)["text"] for line in shipped_lines("neutral"))


def shipped_lines(name: str) -> list[str]:
    """The lines of a file that is shipped, each a JSON object."""
    return [line for line in _shipped(name).split("\n") if line]


def _rows(name: str) -> list[dict[str, Any]]:
    faults: list[Fault] = []
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(_text(name).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            faults.append(Fault(place, f"this is not JSON: {error}"))
            continue
        wrong = _row_faults(row, place)
        for key in ("id", "prompt") if not wrong else ():
            first = seen.setdefault(f"{key}\x1f{row[key].strip()}", number)
            if first != number:
                wrong.append(Fault(place, f"its {key} is that of line {first}", "Each must be there once."))
        faults += wrong
        rows += [] if wrong else [row]
    if faults:
        raise InputError(*faults)
    return rows


def _row_faults(row: object, place: str) -> list[Fault]:
    if not isinstance(row, dict):
        return [Fault(place, "a row must be an object")]
    faults = [
        Fault(place, f"{key!r} must be a text that is not empty")
        for key in ("id", "prompt")
        if not isinstance(row.get(key), str) or not row[key].strip()
    ]
    if row.get("split") not in SPLITS:
        faults.append(Fault(place, f"'split' is {row.get('split')!r}", "It must be 'train' or 'test'."))
    demands = row.get("constraints")
    if not isinstance(demands, Sequence) or not demands or not all(isinstance(one, dict) for one in demands):
        faults.append(Fault(place, "'constraints' must be a list of objects, at least one"))
    return faults


def _text(name: str) -> str:
    if not name.endswith(".jsonl"):
        if name != "constraints":
            mend = did_you_mean(name, ["constraints"]) + " Or give the path of a .jsonl file."
            raise bad("data", f"there is no prompt set {name!r}", mend)
        return _shipped(name)
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad(name, f"the file cannot be read: {error}") from error


def _shipped(name: str) -> str:
    return (resources.files("truing.data") / "prompts" / f"{name}.jsonl").read_text(encoding="utf-8")
