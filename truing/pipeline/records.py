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
from truing.core.artefact import write_text
from truing.core.errors import bad
from truing.core.recipe import Point, Recipe
from truing.pipeline.arm import Made
from truing.pipeline.inputs import Inputs

PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "numpy", "safetensors")


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


@dataclass
class Record:
    """``run.json`` in the making; rewritten whole at every change."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def open(self, recipe: Recipe, inputs: Inputs, fingerprint: str, *, resume: bool) -> bool:
        """Begin, or take up what was begun; whether the run was finished already.

        Raises:
            InputError: the folder holds another run, or a run and ``resume`` was not asked for.
        """
        file = self.folder / "run.json"
        asked = plain({**recipe.raw, "seed": recipe.seed, "model": recipe.model})
        if file.exists():
            old = json.loads(file.read_text(encoding="utf-8"))
            same = old.get("recipe") == asked and old.get("model", {}).get("fingerprint") == fingerprint
            same = same and {k: v["digest"] for k, v in old.get("data", {}).items()} == inputs.digests
            if not resume:
                raise bad(str(self.folder), "holds a run already", "Add --resume to go on, or give another --out.")
            if not same:
                mend = "Give another --out, or the recipe, model and data that it was begun with."
                raise bad(str(self.folder), "holds a run of another recipe, model or data", mend)
            self.facts = old
            if old.get("status") == "finished":
                return True
        ledgers = {name: ledger.to_json() for name, ledger in inputs.ledgers.items()}
        sources = {**recipe.data, "evaluate": recipe.evaluate.get("prompts") or "held out"}
        self.facts = {
            "name": recipe.name,
            "recipe": asked,
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
