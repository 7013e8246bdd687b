"""Small models on the disk, merges written as mergekit writes them, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from tiny import Notes, make_local

from truing.core.artefact import save_policy
from truing.engine.shards import Shards
from truing.pipeline import merging
from truing.pipeline.merging.running import Options


def model_folder(folder: Path, seed: int, architecture: str = "llama", **settings: Any) -> str:
    """A small random model's folder."""
    save_policy(make_local(architecture, seed=seed, num_hidden_layers=4, **settings), folder)
    return str(folder)


def merge(folder: Path, raw: dict[str, Any], *, resume: bool = False, **options: Any) -> dict[str, torch.Tensor]:
    """The tensors of a merge that is made in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "merge.yml").write_text(yaml.safe_dump(raw, sort_keys=False))
    out = merging.run(folder / "merge.yml", folder / "out", resume=resume, options=Options(**options), log=Notes())
    read = Shards(out)
    return {name: read[name] for name in read}


def weights(folder: str) -> dict[str, torch.Tensor]:
    """A model's tensors."""
    read = Shards(Path(folder))
    return {name: read[name] for name in read}


def two(models: list[str], method: str, **more: Any) -> dict[str, Any]:
    """A merge of the second and third model, about the first."""
    return {"merge_method": method, "models": [{"model": m} for m in models[1:]], "base_model": models[0], **more}
