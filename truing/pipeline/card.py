"""The model card of an arm: what it is, what it was made from, and how to load it."""

from __future__ import annotations

from pathlib import Path

import yaml

from truing.core.artefact import WRAPPED
from truing.core.files import write_text
from truing.core.recipe import Point, Recipe


def write_card(folder: Path, recipe: Recipe, point: Point) -> None:
    """``README.md`` in an artefact, in the Hub's form."""
    steps = "\n".join(
        f"{number}. `{step.method}`" + (f" with {_settings(step.settings)}" if step.settings else "")
        for number, step in enumerate((*recipe.shared, *point.steps), 1)
    )
    wrapped = (folder / WRAPPED).exists()
    load = (
        f"import truing\n\npolicy = truing.load({folder.name!r})"
        if wrapped
        else "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder.name!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder.name!r})"
    )
    if (folder / "adapter").is_dir():
        alone = f"PeftModel.from_pretrained(base, {folder.name + '/adapter'!r})"
        load += (
            f"\n\n# Or what was trained, on the model that it was trained on:\n# from peft import PeftModel\n# {alone}"
        )
    head = yaml.safe_dump({"library_name": "transformers", "tags": ["truing"], "base_model": recipe.model})
    write_text(
        folder / "README.md",
        f"---\n{head}---\n\n# {point.name}\n\nAn arm of the comparison *{recipe.name}*, made from "
        f"`{recipe.model}` with seed {recipe.seed}:\n\n{steps}\n\nIts measures stand in the run's `report.md`.\n\n"
        f"```python\n{load}\n```\n",
    )


def _settings(settings: object) -> str:
    return "`" + yaml.safe_dump(settings, default_flow_style=True).strip() + "`"
