"""Weights at rest: the same numbers in a file, less memory, nothing left behind, nothing learnt otherwise."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from fitting import TREES, train
from tiny import same_weights

from truing.core.run import Quiet, Run
from truing.engine import fit, rest
from truing.engine.memory import resident
from truing.models.local import Local


def test_memory_is_given_back_and_filled_again(tmp_path: Path) -> None:
    tensors = [torch.arange(15_000_001, dtype=torch.float32) + k for k in range(3)]
    wanted = [tensor.clone() for tensor in tensors]
    before = resident()
    with rest.at_rest(tensors, tmp_path):
        assert before - resident() > 150e6
        assert torch.equal(tensors[1], wanted[1])  # who reads them all the same reads what they were
        assert not any(tmp_path.iterdir())
    for tensor, want in zip(tensors, wanted, strict=True):
        assert torch.equal(tensor, want)
        assert tensor.data_ptr() % rest.ALIGNMENT == 0
    assert before - resident() < 20e6


def test_an_error_within_brings_them_back(tmp_path: Path) -> None:
    tensor = torch.ones(2**25)
    with pytest.raises(KeyError), rest.at_rest([tensor], tmp_path):
        raise KeyError
    tensor.add_(1)  # of its own again: a file that nobody holds would not matter, one that is gone would
    assert tensor.sum() == 2**26
    assert resident_file(tensor) == 0


def resident_file(tensor: torch.Tensor) -> int:
    """How many mappings of deleted files hold this tensor's first number."""
    address, held = tensor.data_ptr(), 0
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        start, stop = (int(part, 16) for part in line.split()[0].split("-"))
        held += start <= address < stop and "(deleted)" in line
    return held


def test_without_room_they_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    tensor = torch.ones(2**25)
    where = tensor.data_ptr()
    with rest.at_rest([tensor], tmp_path):
        assert tensor.data_ptr() == where


def test_few_stay(tmp_path: Path) -> None:
    tensor = torch.ones(10)
    where = tensor.data_ptr()
    with rest.at_rest([tensor], tmp_path):
        assert tensor.data_ptr() == where


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}, {"unfrozen_parameters": ("layers.1",)}])
def test_the_base_rests_while_nothing_reads_it(
    settings: dict[str, object], tiny_policy: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = train(tiny_policy, **settings)
    scores = tiny_policy.tree_logprobs(TREES, Quiet())
    monkeypatch.setattr(rest, "LEAST", 1)
    seen = []

    class Watched(fit.Loop):
        def one_step(self) -> None:
            super().one_step()
            seen.append(sum(map(resident_file, tiny_policy.weights().values())) > 0)

    monkeypatch.setattr(fit, "Loop", Watched)
    found = train(tiny_policy, run=Run(work=tmp_path), **settings)
    assert set(seen) == {not settings}
    assert same_weights(found, wanted)
    assert not any(map(resident_file, tiny_policy.weights().values()))
    for now, then in zip(tiny_policy.tree_logprobs(TREES, Quiet()), scores, strict=True):
        assert torch.equal(now, then)
