"""Merges that were stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import merge, model_folder, two

from truing.core.errors import InputError
from truing.engine import stream
from truing.engine.shards import INDEX


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models of four blocks."""
    root = tmp_path_factory.mktemp("models")
    return [model_folder(root / str(seed), seed) for seed in range(3)]


class TestResume:
    RAW = ("task_arithmetic", {"parameters": {"weight": 0.5}})

    def test_a_stopped_merge_goes_on_to_the_same_bytes(
        self, models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = two(models, self.RAW[0], **self.RAW[1])
        whole = merge(tmp_path / "whole", raw, max_shard_size=20_000)
        real, calls = stream.os.replace, [0]

        def stopped(*names: Any) -> None:
            calls[0] += str(names[1]).endswith(".safetensors")
            if calls[0] > 3:
                raise KeyboardInterrupt
            real(*names)

        monkeypatch.setattr(stream.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            merge(tmp_path / "again", raw, max_shard_size=20_000)
        monkeypatch.undo()
        assert not (tmp_path / "again" / "out").exists()
        (room,) = (tmp_path / "again").glob(".unfinished-out*")
        kept = {file.name: file.stat().st_mtime_ns for file in room.glob("*.safetensors")}
        assert len(kept) == 3
        made = merge(tmp_path / "again", raw, resume=True, max_shard_size=20_000)
        out = tmp_path / "again" / "out"
        assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
        assert made.keys() == whole.keys()
        assert all(torch.equal(made[name], whole[name]) for name in whole)
        assert (out / INDEX).read_bytes() == (tmp_path / "whole" / "out" / INDEX).read_bytes()
        assert not list((tmp_path / "again").glob(".unfinished*"))

    @pytest.mark.parametrize("change", ["settings", "input", "nothing"])
    def test_what_was_begun_with_other_settings_or_inputs_is_not_taken_up(
        self, change: str, models: list[str], tmp_path: Path
    ) -> None:
        copies = [str(shutil.copytree(model, tmp_path / f"m{i}")) for i, model in enumerate(models)]
        raw = two(copies, self.RAW[0], **self.RAW[1])
        merge(tmp_path, raw, max_shard_size=20_000)
        room = tmp_path / ".unfinished-out-merge"
        (tmp_path / "out").rename(room)
        first = sorted(room.glob("*.safetensors"))[0]
        first.write_bytes(b"marked")  # a file that was taken up is not written again
        if change == "settings":
            raw["parameters"] = {"weight": 0.7}
        if change == "input":
            shutil.copyfile(Path(models[2]) / "model.safetensors", Path(copies[1]) / "model.safetensors")
        if change == "nothing":
            with pytest.raises(InputError, match="cut off"):
                merge(tmp_path, raw, resume=True, max_shard_size=20_000)
        else:
            merge(tmp_path, raw, resume=True, max_shard_size=20_000)
        assert ((tmp_path / "out" / first.name).read_bytes() == b"marked") == (change == "nothing")

    def test_a_finished_merge_is_left_as_it_is(self, models: list[str], tmp_path: Path) -> None:
        raw = two(models, self.RAW[0], **self.RAW[1])
        merge(tmp_path, raw)
        before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
        merge(tmp_path, raw, resume=True)
        assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
        with pytest.raises(InputError, match="exists already"):
            merge(tmp_path, raw)
        with pytest.raises(InputError, match="exists already"):
            merge(tmp_path, {**raw, "parameters": {"weight": 0.1}}, resume=True)
