"""What was run, so that every number can be traced: ``run.json``."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truing import __version__
from truing.core.errors import Fault, InputError, bad, differences
from truing.core.files import write_text
from truing.core.recipe import Point, Recipe
from truing.engine.settings import FREE
from truing.pipeline.arm import Made
from truing.pipeline.inputs import Inputs

PACKAGES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "datasets", "numpy", "safetensors")


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What is installed of the packages that decide results."""
    found = {"truing": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and accelerator."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {"system": platform.system(), "cpu": platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def folder_faults(recipe: Recipe, folder: Path, *, resume: bool) -> list[Fault]:
    """What can be known to be wrong with the folder of a run before a model loads. Nothing is made or changed."""
    place, another = str(folder), "Give another --out"
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
        return [Fault(place, f"{nearest} is not a folder", f"{another}.")]
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [Fault(place, f"{nearest} cannot be written to", f"{another}, or make it writable.")]
    if not (folder / "run.json").exists():
        foreign = sorted(name for name in (os.listdir(folder) if folder.exists() else ()) if not name.startswith("."))
        fact = f"holds {', '.join(foreign[:3])} and no run"
        return [Fault(place, fact, "Give a new or an empty folder as --out.")] if foreign else []
    if not resume:
        return [Fault(place, "holds a run already", f"Add --resume to go on, or {another.lower()}.")]
    try:
        changed = differences(_decisive(read_facts(folder).get("recipe")), _decisive(asked(recipe)))
    except InputError as error:
        return list(error.faults)
    fact = f"holds a run of another recipe, model or data: {'; '.join(changed[:3])}"
    return [Fault(place, fact, f"{another}, or the recipe that it was begun with.")] if changed else []


def read_facts(folder: Path) -> dict[str, Any]:
    """``run.json`` of a run that was begun.

    Raises:
        InputError: it is no JSON object.
    """
    file, mend = folder / "run.json", "Restore it, or give another --out."
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise bad(str(file), f"cannot be read ({error})", mend) from error
    if not isinstance(facts, dict):
        raise bad(str(file), "is no record of a run", mend)
    return facts


def asked(recipe: Recipe) -> Any:
    """The recipe as ``run.json`` keeps it."""
    return plain({**recipe.raw, "seed": recipe.seed, "model": recipe.model})


def _decisive(told: Any) -> Any:
    """What is left of plain values without the fields that may be changed in the middle of a run."""
    if isinstance(told, dict):
        left = {name: _decisive(value) for name, value in told.items() if name not in FREE}
        return next(iter(left)) if list(left.values()) == [{}] else left  # a step may be told by its name alone
    return [_decisive(value) for value in told] if isinstance(told, list) else told


@dataclass
class Record:
    """``run.json`` in the making; rewritten whole at every change."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def open(self, recipe: Recipe, inputs: Inputs, fingerprint: str) -> bool:
        """Begin, or take up what was begun; whether the run was finished already.

        Raises:
            InputError: the folder holds a run of another model or other data.
        """
        if (self.folder / "run.json").exists():
            old = read_facts(self.folder)
            known = {k: v["digest"] for k, v in old.get("data", {}).items()}
            changed = differences({"model": old.get("model", {}).get("fingerprint")}, {"model": fingerprint})
            changed += differences({"data": known}, {"data": inputs.digests})
            if changed:
                mend = "Give another --out, or the model and data that it was begun with."
                fact = f"holds a run of another recipe, model or data: {'; '.join(changed[:3])}"
                raise bad(str(self.folder), fact, mend)
            self.facts = old
            if old.get("status") == "finished":
                return True
        ledgers = {name: ledger.to_json() for name, ledger in inputs.ledgers.items()}
        asked_of = {"evaluate": "prompts", "evaluate.pairs": "pairs", "questions": "questions"}
        held = {name: recipe.evaluate.get(key) or "held out" for name, key in asked_of.items()}
        sources = {**recipe.data, **held}
        self.facts = {
            "name": recipe.name,
            "recipe": asked(recipe),
            "versions": versions(),
            "seed": recipe.seed,
            "machine": machine(),
            "started": self.facts.get("started", now()),
            "finished": None,
            "seconds": self.facts.get("seconds", 0.0),
            "model": {"name": recipe.model, "fingerprint": fingerprint},
            "data": {
                name: {"source": str(sources.get(name)), "digest": digest, "ledger": ledgers.get(name, {})}
                for name, digest in inputs.digests.items()
            },
            "notes": inputs.notes,
            "prompts": len(inputs.prompts),
            "reference": "base",
            "arms": self.facts.get("arms", []),
            "status": "running",
        }
        self.write()
        return False

    def arm(self, point: Point, made: Made) -> None:
        """An arm that is made and measured."""
        self.facts["arms"] = [arm for arm in self.facts["arms"] if arm["name"] != point.name]
        self.facts["arms"].append({
            "name": point.name,
            "arm": point.arm,
            "curve": point.curve,
            "dial": list(point.dial) if point.dial else None,
            "steps": [step.method for step in point.steps],
            "artefact": f"arms/{point.name}" if point.steps else None,
            "seconds": round(made.seconds, 3),
            "training": made.training,
        })  # fmt: skip
        self.write()

    def close(self, seconds: float, order: Sequence[str]) -> None:
        """The run is finished; arms in the recipe's order."""
        self.facts["arms"].sort(key=lambda arm: order.index(arm["name"]))
        self.facts |= {"status": "finished", "finished": now()}
        self.facts["seconds"] = round(self.facts["seconds"] + seconds, 3)
        self.write()

    def write(self) -> None:
        """To disk, whole."""
        write_text(self.folder / "run.json", json.dumps(self.facts, indent=2, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value, default=str))
