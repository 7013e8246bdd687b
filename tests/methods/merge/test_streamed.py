"""Merging models that stay on the disk: the same bits as in memory, and little of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_local

import truing
from truing.core.artefact import save_policy
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.rng import Rng
from truing.core.run import Quiet, Run
from truing.engine.shards import Shards
from truing.engine.stream import write
from truing.engine.tensors import STRETCH, Held
from truing.methods.merge import _blend
from truing.methods.merge._blend import Blend
from truing.methods.merge._family import MergeMethod
from truing.pipeline.merging.table import METHODS

READ = Shards.read
MERGES = sorted({rules.name for rules in METHODS.values()} | {"merge/tsv", "merge/iso_c", "merge/extract_lora"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three small models on the disk."""
    root = tmp_path_factory.mktemp("streamed")
    for seed in range(3):
        save_policy(make_local(seed=seed), root / str(seed))
    return [root / str(seed) for seed in range(3)]


def merging(name: str) -> MergeMethod:
    method = build(name)
    assert isinstance(method, MergeMethod)
    return method


def lazily(name: str, folders: list[Path], rng: Rng) -> Blend:
    base, *donors = (Shards(folder) for folder in folders)
    return merging(name).merged(base, donors, rng)


@pytest.mark.parametrize("small", [0, _blend._SMALL], ids=["stretches", "whole"])
@pytest.mark.parametrize("name", MERGES)
def test_streamed_is_in_memory_bit_for_bit(
    name: str, small: int, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether small tensors are read once, for all that a method asks of them, or as large ones are."""
    monkeypatch.setattr(_blend, "_SMALL", small)
    method = merging(name)
    used = folders[: 2 if method.counts[1] == 1 else 3]
    base, *donors = (truing.load(str(folder)) for folder in used)
    run = Run(seed=3)
    held = method(base, Evidence(donors={str(i): donor for i, donor in enumerate(donors)}), run).weights()
    write(lazily(name, used, run.rng("merge")), tmp_path, Quiet())
    streamed = Shards(tmp_path)
    assert set(streamed) == set(held)
    assert all(torch.equal(streamed[name], tensor) for name, tensor in held.items())


@pytest.mark.parametrize(("name", "once"), [("slerp", True), ("ties", True), ("linear", False), ("dare_ties", False)])
def test_a_small_tensor_is_read_once_by_who_looks_twice(
    name: str, once: bool, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    monkeypatch.setattr(Shards, "read", lambda self, tensor: reads.append(tensor) or READ(self, tensor))
    blend = lazily(f"merge/{name}", folders[:2], Rng(0))
    tensor = "model.layers.0.mlp.up_proj.weight"
    for _ in blend.pieces(tensor):
        pass
    assert reads == [tensor] * 2 * once
    size = Shards(folders[0]).spec(tensor).size
    plain = lazily("merge/linear", folders[:2], Rng(0))
    assert blend.cost(tensor) - plain.cost(tensor) == 2 * size * once


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from truing.core.method import build
from truing.core.rng import Rng
from truing.core.run import Quiet
from truing.engine.shards import Shards
from truing.engine.stream import write
import torch
def peak():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) * 1024
a, b, c = (Shards(Path(f)) for f in {folders!r})
torch.zeros(1 << 20).sort()
before = peak()
out = Path({out!r})
out.mkdir()
write(build('merge/ties').merged(a, [b, c], Rng(0)), out, Quiet())
print(peak() - before, 'transformers' in sys.modules)
"""


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Three models of 100 MB in one tensor: an outcome in less memory than one of them, and without transformers."""
    size = 25_000_000
    folders = []
    for seed in range(3):
        folder = tmp_path / f"m{seed}"
        folder.mkdir()
        numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        write(Held({"w": numbers}), folder, Quiet())
        folders.append(str(folder))
    program = PROGRAM.format(path=sys.path, folders=folders, out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    grown, loaded = done.stdout.split()
    assert int(grown) < 80_000_000
    assert loaded == "False"
    assert Shards(tmp_path / "out").spec("w").count == size > 50 * STRETCH
