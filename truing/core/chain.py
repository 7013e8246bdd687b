"""Types a recipe's whole chain without loading a model, and tells every fault at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from truing.core.artefact import WRAPPED
from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.method import LADDER, Card, field_faults, find, names
from truing.core.policy import Editable, Policy

if TYPE_CHECKING:
    from truing.core.recipe import Recipe, Step


def base_rung(model: str) -> type[Policy]:
    """What a model of that name will stand on: an endpoint only answers, and a wrapped policy gives what it can."""
    folder = Path(model)
    if model.startswith(("http://", "https://")) or (folder / "remote.json").exists():
        return Policy
    if not (folder / WRAPPED).exists():
        return Editable
    try:
        row = json.loads((folder / WRAPPED).read_text(encoding="utf-8"))
        behind = base_rung(str(folder / "base") if row["base"] == "base" else row["base"])
        gives = find(row["method"]).gives_on(behind)
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return Editable  # what is wrong with the folder is told when it is loaded
    return gives if issubclass(gives, Policy) else behind


def chain_faults(recipe: Recipe) -> list[Fault]:
    """Types the whole chain without loading a model."""
    faults: list[Fault] = []
    provided = set(recipe.data) | ({"judge"} if recipe.judge is not None else set())
    rung: type[Policy] = base_rung(recipe.model)
    rung, provided = _walk(recipe.shared, rung, provided, faults)
    if not recipe.points:
        faults.append(Fault("arms", "are missing", "Give at least one, e.g. 'arms: {dpo: [preference/dpo]}'."))
    earlier: dict[str, type[Policy]] = {}
    seen: set[tuple[str, str]] = set()
    for point in recipe.points:
        if point.name in earlier or point.name == "base":
            faults.append(Fault(f"arms.{point.arm}", f"{point.name!r} is there twice", "Give every arm its own name."))
        for donor, source in point.donors.items():
            target = source.removeprefix("arms.")
            if source.startswith("arms.") and target not in earlier and (point.arm, donor) not in seen:
                mend = did_you_mean(target, earlier) or "Arms may use only arms above them."
                faults.append(Fault(f"arms.{point.arm}.donors.{donor}", f"there is no arm {target!r} above it", mend))
            elif source.startswith("arms.") and not issubclass(earlier.get(target, Editable), Editable):
                mend = "Only an arm with weights of its own can be merged."
                faults.append(Fault(f"arms.{point.arm}.donors.{donor}", f"{target!r} gives no weights", mend))
            seen.add((point.arm, donor))
        fields = provided | ({"donors"} if point.donors else set())
        known = len(faults)
        last, _ = _walk(point.steps, rung, fields, faults)
        # The points of one curve share their steps: what is wrong with all of them is said once.
        faults[known:] = [fault for fault in faults[known:] if fault not in faults[:known]]
        earlier[point.name] = last
    return faults


def _walk(
    steps: Sequence[Step], rung: type[Policy], provided: set[str], faults: list[Fault]
) -> tuple[type[Policy], set[str]]:
    provided, giver = set(provided), "the model"
    for step in steps:
        if not step.method:
            continue
        try:
            cls = find(step.method)
        except InputError as error:
            faults += [Fault(step.place, fault.fact, fault.mend) for fault in error.faults]
            continue
        card: Card = cls.card
        faults += [Fault(step.place, fault.fact, fault.mend) for fault in field_faults(cls, step.settings, step.place)]
        if not issubclass(rung, card.needs):
            mend = (
                "Swap them, or put a method that trains between."
                if giver != "the model"
                else "Give a model with weights."
            )
            fact = f"{card.name} needs {_a(card.needs)} policy, but {giver} gives only {_a(rung)}"
            faults.append(Fault(step.place, fact, mend))
        for name in sorted(card.reads - provided):
            writers = [other for other in _writers(name) if other != card.name]
            put = f" or put {writers[0]} before it" if writers else ""
            where = (
                f"Add '{name}:'"
                if name == "judge"
                else "Give the arm 'donors:'"
                if name == "donors"
                else f"Add 'data.{name}'"
            )
            faults.append(Fault(step.place, f"{card.name} reads {name}, and nothing gives any", f"{where}{put}."))
        if cls.reads_any and not cls.reads_any & provided:
            either = " or ".join(sorted(cls.reads_any))
            mend = f"Add {' or '.join(repr(f'data.{name}') for name in sorted(cls.reads_any))}."
            faults.append(Fault(step.place, f"{card.name} reads {either}, and nothing gives any", mend))
        provided |= card.writes
        gives = cls.gives_on(rung)
        if issubclass(gives, Policy):
            rung, giver = gives, card.name
    return rung, provided


def _writers(name: str) -> list[str]:
    return [other for other in names() if name in find(other).card.writes - find(other).card.reads]


def _a(rung: type[Policy]) -> str:
    name = next(step.__name__ for step in reversed(LADDER) if issubclass(rung, step))
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
