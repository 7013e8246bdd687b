"""The models that the benchmark of merging makes, and how it compares outcomes."""

from __future__ import annotations

from pathlib import Path

import torch
from harness.merges import NOISE, difference, noisy_copies, recipe
from merge_vs_mergekit import AGREED, NEEDS, TIMED
from safetensors.torch import load_file, save_file
from tiny import make_local

from truing.core.artefact import save_policy
from truing.pipeline.merging.reading import parse_merge


def test_copies_are_the_model_with_noise_of_their_own(tmp_path: Path) -> None:
    save_policy(make_local(), tmp_path / "model")
    one, other = noisy_copies(tmp_path, str(tmp_path / "model"), 2)
    own, first, second = (load_file(Path(f) / "model.safetensors") for f in (tmp_path / "model", one, other))
    noise = torch.cat([(first[name] - own[name]).flatten() for name in own])
    assert 0.9 * NOISE < float(noise.std()) < 1.1 * NOISE
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_every_merge_of_the_benchmark_can_be_read() -> None:
    for method in {*TIMED, *AGREED}:
        config = parse_merge(recipe(method, ["a", "b", "c"][: NEEDS.get(method, 3)]))
        assert config.method == method


def test_the_largest_difference_is_found(tmp_path: Path) -> None:
    for i, last in enumerate((5.0, -5.5)):
        (tmp_path / str(i)).mkdir()
        save_file({"a": torch.ones(3), "b": torch.tensor([1.0, last])}, tmp_path / str(i) / "model.safetensors")
    assert difference(str(tmp_path / "0"), str(tmp_path / "1")) == (10.5, 5.5, 1)
