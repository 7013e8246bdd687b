"""Everything that can be known to be wrong before a model loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from truing.core.errors import Fault, InputError
from truing.core.method import coerce, field_faults, find, names
from truing.core.recipe import Point, Recipe
from truing.data.contract import Ledger
from truing.engine.fit import Training
from truing.models import load_template
from truing.pipeline.inputs import Inputs, read_inputs, token_limits
from truing.probes.catalogue import PROBES, probe_faults


@dataclass(frozen=True)
class Checked:
    """A recipe without faults.

    Attributes:
        ledgers: by field, what became of the rows.
        lines: for the reader: arms, probes, what the data comes to.
    """

    ledgers: Mapping[str, Ledger]
    lines: list[str]


def check(recipe: Recipe, *, lengths: bool = False) -> Checked:
    """Check the whole recipe and read its data; no model is loaded.

    Args:
        lengths: count tokens, with the tokenizer of the recipe's model. It takes seconds; a run always does.

    Raises:
        InputError: every fault of the recipe and of its data at once.
    """
    faults = recipe_faults(recipe)
    try:
        inputs = read_inputs(recipe, **(token_limits(*load_template(recipe.model)) if lengths else {}))
    except InputError as error:
        raise InputError(*faults, *(fault for fault in error.faults if fault not in faults)) from None
    if faults:
        raise InputError(*faults)
    return Checked(inputs.ledgers, _lines(recipe, inputs))


def recipe_faults(recipe: Recipe) -> list[Fault]:
    """What is wrong with the recipe itself."""
    faults = list(recipe.faults)
    faults += probe_faults(recipe.probes, ("base", *(point.name for point in recipe.points)), "probes")
    if recipe.judge is None:
        # Only what was asked for by name: the default probes leave out what there is no judge for.
        asked = recipe.probes if "probes" in recipe.raw else ()
        for i, name in enumerate(asked):
            head = name.split(".")[0]
            if head in PROBES and "judge" in PROBES[head].needs:
                faults.append(Fault(f"probes[{i}]", f"{name} needs a judge", "Add 'judge: constraints', or your own."))
    faults += _fact_faults(recipe)
    faults += _refusal_faults(recipe)
    if recipe.evaluate["targets"] is None:
        for i, name in enumerate(recipe.probes):
            if name in PROBES and "targets" in PROBES[name].needs:
                mend = "Add 'evaluate.targets': prompts with replies that nobody wants, as demonstrations."
                faults.append(Fault(f"probes[{i}]", f"{name} needs harmful replies", mend))
    for point in recipe.points:
        faults += (fault for fault in _opening_faults(recipe, point) if fault not in faults)
        for name, source in point.donors.items():
            if source.startswith((".", "/")) and not Path(source).exists():
                place = f"arms.{point.arm}.donors.{name}"
                faults.append(Fault(place, f"there is no folder {source}", "Give a model folder or a Hub name."))
    return faults


def _fact_faults(recipe: Recipe) -> list[Fault]:
    """Probes of facts without facts, or without the model that is compared with."""
    spec, faults = recipe.evaluate["facts"], []
    retrained = spec.get("retrained") if isinstance(spec, Mapping) else None
    for i, name in enumerate(recipe.probes):
        needs = PROBES[name].needs if name in PROBES else frozenset()
        if "facts" in needs and spec is None:
            faults.append(Fault(f"probes[{i}]", f"{name} needs facts", "Add 'evaluate: {facts: {source: FILE}}'."))
        elif "retrained" in needs and not retrained:
            mend = "Add 'retrained: MODEL' to evaluate.facts: one that never saw what was to be forgotten."
            faults.append(Fault(f"probes[{i}]", f"{name} needs a model to compare with", mend))
    if isinstance(retrained, str) and retrained.startswith((".", "/")) and not Path(retrained).exists():
        faults.append(Fault("evaluate.facts", f"there is no folder {retrained}", "Give a model folder or a Hub name."))
    return faults


def _refusal_faults(recipe: Recipe) -> list[Fault]:
    """Probes of refusals without prompts, or an aligned model that is not there."""
    spec = recipe.evaluate["refusal"]
    faults = [
        Fault(f"probes[{i}]", f"{name} needs prompts to refuse", "Add 'evaluate: {refusal: {source: FILE}}'.")
        for i, name in enumerate(recipe.probes)
        if name in PROBES and "refusal" in PROBES[name].needs and spec is None
    ]
    aligned = spec.get("aligned") if isinstance(spec, Mapping) else None
    if isinstance(aligned, str) and aligned.startswith((".", "/")) and not Path(aligned).exists():
        faults.append(Fault("evaluate.refusal", f"there is no folder {aligned}", "Give a model folder or a Hub name."))
    return faults


def _opening_faults(recipe: Recipe, point: Point) -> list[Fault]:
    """What an arm's steps cannot train: settings that contradict each other, or weights that are held in 4 bits."""
    faults, packed = [], recipe.load_in_4bit
    for step in (*recipe.shared, *point.steps):
        if step.method not in names() or not issubclass(kind := find(step.method), Training):
            continue
        if field_faults(kind, step.settings, step.place):
            continue  # told already
        method = kind(**coerce(kind, step.settings))
        faults += method.faults(step.place)
        if packed and not method.lora_r and method.max_steps != 0:
            fact = f"{step.method} trains every weight, and load_in_4bit holds them in 4 bits"
            faults.append(Fault(step.place, fact, "Set lora_r, e.g. 16, or leave load_in_4bit out."))
        packed = False  # what a step gives is a model in full
    return faults


def _lines(recipe: Recipe, inputs: Inputs) -> list[str]:
    counts = {name: len(getattr(inputs.evidence, name)) for name in recipe.data if name != "donors"}
    data = ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
    arms = ", ".join(point.name for point in recipe.points)
    return [
        f"model: {recipe.model}",
        f"data: {data}; {len(inputs.prompts)} prompts to evaluate on",
        f"arms: {arms}",
        f"probes: {', '.join(recipe.probes)}",
        *inputs.notes,
    ]
