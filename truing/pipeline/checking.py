"""Everything that can be known to be wrong before a model loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from truing.core.errors import Fault, InputError
from truing.core.recipe import Recipe
from truing.data.contract import Ledger
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
    for point in recipe.points:
        for name, source in point.donors.items():
            if source.startswith((".", "/")) and not Path(source).exists():
                place = f"arms.{point.curve}.donors.{name}"
                faults.append(Fault(place, f"there is no folder {source}", "Give a model folder or a Hub name."))
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
