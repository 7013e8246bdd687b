"""Models to merge: copies of one with seeded noise, and made-up ones of any size."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from truing.core.lazy import torch
from truing.core.rng import Rng
from truing.core.run import Quiet
from truing.engine.shards import Shards
from truing.engine.stream import write
from truing.engine.tensors import Spec, Tensors
from truing.models.folder import copy_beside, read_config

STEP = 1 << 22
NOISE = 0.01  # standard deviation, in the unit of the weights


class Noisy(Tensors):
    """A model's tensors, or zeros, with noise of a seed on them."""

    def __init__(self, specs: Mapping[str, Spec], own: Tensors | None, seed: int, size: float) -> None:
        self.specs, self.own, self.seed, self.size = specs, own, seed, size

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def spec(self, name: str) -> Spec:
        return self.specs[name]

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        spec = self.specs[name]
        source = torch.Generator().manual_seed(Rng(self.seed).child("noise", name).integer())
        for start in range(0, spec.count, STEP):
            count = min(STEP, spec.count - start)
            made = torch.randn(count, generator=source).mul_(self.size)
            if self.own is not None:
                made += self.own.stretch(name, start, start + count)
            yield start, made.to(spec.dtype)


def noisy_copies(folder: Path, model: str, count: int) -> list[str]:
    """Copies of a model with noise of seeds 1 .. ``count``."""
    made = []
    own = Shards(Path(model))
    specs = {name: own.spec(name) for name in own}
    for seed in range(1, count + 1):
        place = folder / f"copy{seed}"
        place.mkdir()
        copy_beside(Path(model), place)
        write(Noisy(specs, own, seed, NOISE), place, Quiet())
        made.append(str(place))
    return made


def made_up_models(folder: Path, model: str, count: int, *, bytes_each: float, kind: str) -> list[str]:
    """Llamas of random weights: as many blocks of a width as come to ``bytes_each``; the tokenizer of ``model``."""
    width = 2048 if bytes_each > 2e9 else 1024 if bytes_each > 2e8 else 64
    config = {**read_config(Path(model)), "hidden_size": width, "intermediate_size": 4 * width, "head_dim": width // 8}
    config["vocab_size"] = int(config["vocab_size"]) if width > 64 else 8192  # small tensors only: nobody samples
    config |= {"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True, "torch_dtype": kind}
    config.pop("dtype", None)
    dtype, vocabulary = getattr(torch, kind), int(config["vocab_size"])
    block = _block(width)
    size = sum(a * b for a, b in block.values()) * dtype.itemsize
    config["num_hidden_layers"] = max(2, round((bytes_each - vocabulary * width * dtype.itemsize) / size))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape if shape[1] > 1 else shape[:1] for name, shape in block.items()}
    specs = {name: Spec(shape, dtype) for name, shape in shapes.items()}
    made = []
    for seed in range(count):
        place = folder / f"made-up{seed}-{len(list(folder.iterdir()))}"
        place.mkdir()
        copy_beside(Path(model), place)
        (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
        write(Noisy(specs, None, seed, 0.05), place, Quiet(), most=2_000_000_000)
        made.append(str(place))
    return made


def _block(width: int) -> dict[str, tuple[int, int]]:
    heads = width // 4
    return {
        "self_attn.q_proj.weight": (width, width),
        "self_attn.k_proj.weight": (heads, width),
        "self_attn.v_proj.weight": (heads, width),
        "self_attn.o_proj.weight": (width, width),
        "mlp.gate_proj.weight": (4 * width, width),
        "mlp.up_proj.weight": (4 * width, width),
        "mlp.down_proj.weight": (width, 4 * width),
        "input_layernorm.weight": (width, 1),
        "post_attention_layernorm.weight": (width, 1),
    }


def recipe(method: str, models: Sequence[str]) -> dict[str, Any]:
    """A merge of models, of which the first is the base where the method has one; settings that both sides share."""
    each: dict[str, Any] = {"weight": 0.7} if method not in _PLAIN else {}
    if method in ("ties", "breadcrumbs", "breadcrumbs_ties", "dare_ties"):
        each["density"] = 0.5
    alike = method in ("linear", "karcher", "multislerp", "nuslerp", "passthrough")
    rows = [{"model": model, "parameters": dict(each)} for model in (models if alike else models[1:])]
    if method in ("slerp", "nearswap"):
        rows = [{"model": model} for model in models]
    made: dict[str, Any] = {"merge_method": method, "models": rows, "dtype": "float32"}
    if method in ("slerp", "nearswap"):
        made["parameters"] = {"t": 0.3 if method == "slerp" else 0.005}
    if method == "sce":
        made["parameters"] = {"select_topk": 0.4}
    return made if alike else {**made, "base_model": models[0]}


_PLAIN = ("slerp", "karcher", "passthrough", "model_stock", "nearswap", "sce", "ram", "ramplus_tl", "arcee_fusion")


def difference(left: str, right: str) -> tuple[float, float, int]:
    """The largest difference of two models' numbers, their largest size, and how many are more than 1e-4 apart."""
    ours, theirs = Shards(Path(left)), Shards(Path(right))
    if set(ours) != set(theirs):
        return float("inf"), 0.0, sum(ours.spec(name).count for name in ours)
    apart, size, many = 0.0, 0.0, 0
    for name in ours:
        one, other = ours.read(name).float(), theirs.read(name).float()
        gap = (one - other).abs()
        apart, many = max(apart, float(gap.max())), many + int((gap > 1e-4).sum())
        size = max(size, float(other.abs().max()))
    return apart, size, many


def warm(folders: Sequence[str]) -> None:
    """Read models once, so that they lie in the system's memory as far as they fit."""
    for folder in folders:
        for path in sorted(Path(folder).glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.read(STEP):
                    pass


def settle_files(folder: Path) -> None:
    """Wait until everything below a folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def remove(folder: str) -> None:
    """A model that is no longer needed."""
    shutil.rmtree(folder, ignore_errors=True)
