"""Run folders, read: what was run, what was measured, how training went, what the arms said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from truing.core.errors import Fault, InputError, bad
from truing.core.measures import Measure

Row = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Arm:
    """One candidate of a comparison.

    Attributes:
        name: as it stands in ``measures.jsonl``.
        curve: the method whose dial it is a point of.
        dial: the swept field and its value, or None.
        steps: the methods that made it, in order.
        artefact: the folder of the saved policy, relative to the run folder.
        seconds: how long it took to make.
        training: rows of metrics under TRL's names, in the order of their steps.
        group: the recipe's arm, all of whose grid belongs together.
    """

    name: str
    curve: str = ""
    dial: tuple[str, float] | None = None
    steps: Sequence[str] = ()
    artefact: str | None = None
    seconds: float | None = None
    training: Sequence[Row] = ()
    group: str = ""


@dataclass(frozen=True)
class Reply:
    """What one arm said to one prompt; ``finish`` is ``stop`` or ``length``."""

    arm: str
    text: str
    score: float | None = None
    finish: str = "stop"


@dataclass(frozen=True)
class Sample:
    """A prompt, as (role, content) turns, and the replies to it."""

    chat: Sequence[tuple[str, str]]
    replies: Sequence[Reply]


@dataclass(frozen=True)
class RunFolder:
    """One finished (or interrupted) run.

    Attributes:
        path: the folder.
        name: the run's own name.
        reference: the arm that the others are measured against.
        facts: ``run.json`` as it stands.
        arms: in the order of the recipe.
        measures: the last one of each (arm, probe).
        samples: may be empty.
        notes: what a reader should know of the reading itself.
    """

    path: Path
    name: str
    reference: str
    facts: Mapping[str, Any]
    arms: Sequence[Arm]
    measures: Sequence[Measure]
    samples: Sequence[Sample] = ()
    notes: Sequence[str] = field(default=())


def read(folder: Path) -> RunFolder:
    """A run folder.

    Args:
        folder: holds ``run.json`` and ``measures.jsonl``; ``samples.jsonl`` and training logs where there are any.

    Raises:
        InputError: a file is missing or a line cannot be read; every fault at once, with its line number.
    """
    facts = _facts(folder)
    faults: list[Fault] = []
    measures = _lines(folder / "measures.jsonl", _measure, faults)
    samples_file = folder / "samples.jsonl"
    samples = _lines(samples_file, _sample, faults) if samples_file.is_file() else []
    notes: list[str] = []
    arms = [_arm(folder, entry, faults, notes) for entry in facts["arms"]]
    recipe = facts.get("recipe")
    if not measures and not faults and not (isinstance(recipe, dict) and recipe.get("probes") == []):
        mend = "Finish the run with 'truing run ... --resume'."
        faults.append(Fault(str(folder / "measures.jsonl"), "holds no measures", mend))
    if faults:
        raise InputError(*faults)
    latest = {(m.arm, m.probe): m for m in measures}
    if len(latest) < len(measures):
        notes.append(f"{len(measures) - len(latest)} measures were written more than once; the last of each is shown.")
    known = {arm.name for arm in arms}
    unlisted = {m.arm: Arm(m.arm, m.curve, m.dial, group=m.curve) for m in latest.values() if m.arm not in known}
    if (status := facts.get("status", "finished")) != "finished":
        notes.append(f"The run is not finished (status: {status}); what follows is what it had measured.")
    name = str(facts.get("name") or folder.resolve().name)
    reference = str(facts.get("reference", "base"))
    ordered = (*arms, *unlisted.values())
    return RunFolder(folder, name, reference, facts, ordered, tuple(latest.values()), tuple(samples), tuple(notes))


def _facts(folder: Path) -> dict[str, Any]:
    """``run.json``, with the shape that the rest relies on."""
    faults = []
    if not folder.is_dir():
        raise bad(str(folder), "there is no such folder", "Give a folder that 'truing run' wrote.")
    for name in ("run.json", "measures.jsonl"):
        if not (folder / name).is_file():
            faults.append(Fault(str(folder), f"has no {name}", "Give a folder that 'truing run --out' wrote."))
    if faults:
        raise InputError(*faults)
    place = str(folder / "run.json")
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad(place, f"is not JSON: {error}", "Run again, or restore the file.") from None
    arms = facts.get("arms") if isinstance(facts, dict) else None
    if not isinstance(arms, list) or not all(isinstance(a, dict) and isinstance(a.get("name"), str) for a in arms):
        raise bad(place, "has no list 'arms' of mappings with a 'name'", "Give a folder that 'truing run' wrote.")
    return {str(key): value for key, value in facts.items()}


def _arm(folder: Path, entry: Mapping[str, Any], faults: list[Fault], notes: list[str]) -> Arm:
    name, rows = str(entry["name"]), list[Row]()
    if log := entry.get("training"):
        file = folder / str(log)
        if not file.resolve().is_relative_to(folder.resolve()):
            faults.append(Fault(str(folder / "run.json"), f"the training log {log!r} lies outside the run folder"))
        elif not file.is_file():
            notes.append(f"The training log of {name} is not there any more ({log}).")
        else:
            rows = _lines(file, _metrics, faults)
    dial = entry.get("dial")
    return Arm(
        name=name,
        group=str(entry.get("arm") or entry.get("curve") or name),
        curve=str(entry.get("curve") or name),
        dial=(str(dial[0]), float(dial[1])) if isinstance(dial, list) and len(dial) == 2 and _number(dial[1]) else None,
        steps=tuple(map(str, entry.get("steps") or ())),
        artefact=str(entry["artefact"]) if entry.get("artefact") else None,
        seconds=_float(entry.get("seconds")),
        training=_in_order(rows),
    )


def _lines(file: Path, parse: Callable[[Any], T], faults: list[Fault]) -> list[T]:
    """Every line of a JSONL file; blank ones are passed over, unreadable ones become faults with their number."""
    return [row for row in _parsed(file, parse, faults) if row is not None]


def _parsed(file: Path, parse: Callable[[Any], T], faults: list[Fault]) -> Iterator[T | None]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if line.strip():
            try:
                yield parse(json.loads(line.decode("utf-8")))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
                mend = "Mend or remove the line, or finish the run with --resume."
                faults.append(Fault(f"{file}:{number}", f"cannot be read: {reason}", mend))


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(value: object) -> bool:
    return _float(value) is not None


_NUMBERS, _TEXTS = ("value", "low", "high", "n"), ("probe", "unit", "kind", "better", "note", "arm", "curve")


def _measure(row: Any) -> Measure:
    if not isinstance(row, dict):
        raise TypeError("a measure is a JSON object")
    if unknown := set(row) - {f.name for f in fields(Measure)}:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    for key in _NUMBERS:
        if key in row and not (_number(row[key]) or (row[key] is None and key in ("low", "high"))):
            raise ValueError(f"{key} is {row[key]!r}, not a number")
    for key in _TEXTS:
        if not isinstance(row.get(key, ""), str):
            raise ValueError(f"{key} is {row[key]!r}, not text")
    dial = row.get("dial")
    if dial and not (isinstance(dial, list) and len(dial) == 2 and _number(dial[1])):
        raise ValueError(f"dial is {dial!r}, not a name and a number")
    return Measure.from_json(json.dumps(row))


def _sample(row: Any) -> Sample:
    chat = tuple((str(turn["role"]), str(turn["content"])) for turn in row["chat"])
    replies = tuple(
        Reply(
            arm=str(reply["arm"]),
            text=str(reply["text"]),
            score=float(reply["score"]) if reply.get("score") is not None else None,
            finish=str(reply.get("finish", "stop")),
        )
        for reply in row["replies"]
    )
    return Sample(chat, replies)


def _metrics(row: Any) -> Row:
    return {str(key): float(value) for key, value in row.items() if _number(value) and math.isfinite(value)}


def _in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By step; where a resumed run wrote a step twice, the later row wins, key by key."""
    merged: dict[float, dict[str, float]] = {}
    for row in rows:
        if "step" in row:
            merged.setdefault(row["step"], {}).update(row)
    return tuple(merged[step] for step in sorted(merged))
