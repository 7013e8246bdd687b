"""Lazy tensors in and out of files: whole or not there, the same bits by every way, in bounded memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import Notes

from truing.core.errors import InputError, RunError
from truing.engine import shards, stream
from truing.engine.shards import INDEX, SINGLE, Shards
from truing.engine.stream import gather, layout, together, write
from truing.engine.tensors import Held, Spec, Tensors

KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float64, torch.uint8)


def some(seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of every type, an empty one and a scalar among them."""
    source = torch.Generator().manual_seed(seed)
    made = {f"layers.{i}.w": torch.randn(7 + i, 5, generator=source).to(kind) for i, kind in enumerate(KINDS)}
    return {**made, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = some()
    write(Held(tensors), tmp_path, Notes())
    assert equal(load_file(tmp_path / SINGLE), tensors)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    tensors = some()
    save_file(tensors, tmp_path / SINGLE)
    read = Shards(tmp_path)
    assert equal({name: read[name] for name in read}, tensors)
    assert torch.equal(read.stretch("layers.0.w", 3, 11), tensors["layers.0.w"].flatten()[3:11])


def test_several_files_with_an_index(tmp_path: Path) -> None:
    tensors = some()
    write(Held(tensors), tmp_path, Notes(), most=200)
    listed = json.loads((tmp_path / INDEX).read_text())
    assert sorted(listed["weight_map"]) == sorted(tensors)
    assert listed["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    files = sorted(set(listed["weight_map"].values()))
    assert len(files) > 3
    found: dict[str, torch.Tensor] = {}
    for file in files:
        part = load_file(tmp_path / file)
        assert not part.keys() & found.keys()
        assert {listed["weight_map"][name] for name in part} == {file}
        found |= part
    assert equal(found, tensors)
    read = Shards(tmp_path)
    assert equal({name: read[name] for name in read}, tensors)


def test_every_tensor_begins_at_a_multiple_of_its_width() -> None:
    for shard in layout(Held(some())):
        for name, offset in shard.offsets.items():
            assert offset % some()[name].element_size() == 0


def test_gathered_is_the_same(tmp_path: Path) -> None:
    tensors = some()
    assert equal(gather(Held(tensors), Notes()), tensors)


class Slow(Tensors):
    """Large tensors that are made when they are asked for; counts what is in the making."""

    def __init__(self, count: int, size: int) -> None:
        self.names, self.size, self.busy, self.most = [f"t.{i}.w" for i in range(count)], size, 0, 0
        self.lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def spec(self, name: str) -> Spec:
        return Spec((self.size,), torch.float32)

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        with self.lock:
            self.busy += 1
            self.most = max(self.most, self.busy)
        for start in range(0, self.size, 1000):
            yield start, torch.full((min(1000, self.size - start),), float(name.split(".")[1]))
        with self.lock:
            self.busy -= 1


def test_no_more_is_in_the_making_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = Slow(12, 50_000)
    monkeypatch.setattr(stream, "BUDGET", 450_000)  # two of 200 kB
    write(tensors, tmp_path, Notes(), workers=6)
    assert 1 <= tensors.most <= 2
    found = load_file(tmp_path / SINGLE)
    assert all(bool((found[name] == float(name.split(".")[1])).all()) for name in tensors)


def test_a_finished_file_is_kept_as_it_is(tmp_path: Path) -> None:
    """Another try writes what is missing only."""
    tensors = Held(some())
    write(tensors, tmp_path, Notes(), most=200)
    files = sorted(tmp_path.glob("*.safetensors"))
    before = {file.name: file.stat().st_mtime_ns for file in files}
    files[1].unlink()
    write(tensors, tmp_path, Notes(), most=200)
    after = {file.name: file.stat().st_mtime_ns for file in files}
    assert {name for name in before if before[name] != after[name]} == {files[1].name}


def test_an_error_stops_all_and_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    class Failing(Slow):
        def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
            if name == "t.3.w":
                raise RunError("no more")
            yield from super().pieces(name)

    with pytest.raises(RunError, match="no more"):
        write(Failing(8, 5000), tmp_path, Notes())
    assert not (tmp_path / SINGLE).exists()


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Huge(Slow):
        def spec(self, name: str) -> Spec:
            return Spec((1 << 50,), torch.float32)

    with pytest.raises(InputError, match=r"GB free, and .* GB are to be written"):
        write(Huge(1, 1), tmp_path, Notes())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunError, match="No space left"):
        write(Held(some()), tmp_path, Notes())


def test_threads_of_torch_are_as_before() -> None:
    before = torch.get_num_threads()
    seen = []
    together([(1, lambda _: seen.append(torch.get_num_threads()))] * 3)
    assert (torch.get_num_threads(), seen) == (before, [1, 1, 1])


class TestDamaged:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write(Held(some()), tmp_path, Notes())
        return tmp_path

    @pytest.mark.parametrize("cut", [1, 100, 10_000])
    def test_cut_off(self, folder: Path, cut: int) -> None:
        data = (folder / SINGLE).read_bytes()
        (folder / SINGLE).write_bytes(data[: max(len(data) - cut, 5)])
        with pytest.raises(InputError, match=r"cut off|header speaks of"):
            Shards(folder)

    def test_no_safetensors(self, folder: Path) -> None:
        (folder / SINGLE).write_bytes(b"\x10" + b"\0" * 7 + b"this is no JSON.")
        with pytest.raises(InputError, match="header cannot be read"):
            Shards(folder)

    def test_another_kind_of_file_only(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").touch()
        with pytest.raises(InputError, match=r"no safetensors, only pytorch_model\.bin"):
            Shards(tmp_path)

    def test_every_missing_file_is_told(self, tmp_path: Path) -> None:
        write(Held(some()), tmp_path, Notes(), most=200)
        files = sorted(tmp_path.glob("*.safetensors"))
        files[0].unlink(), files[2].unlink()
        with pytest.raises(InputError) as told:
            Shards(tmp_path)
        assert [Path(fault.place).name for fault in told.value.faults] == [files[0].name, files[2].name]

    def test_the_index_speaks_of_a_tensor_that_is_not_there(self, tmp_path: Path) -> None:
        write(Held(some()), tmp_path, Notes(), most=200)
        index = json.loads((tmp_path / INDEX).read_text())
        index["weight_map"]["more"] = sorted(index["weight_map"].values())[0]
        (tmp_path / INDEX).write_text(json.dumps(index))
        with pytest.raises(InputError, match="lacks 1 tensors of the index, 'more' first"):
            Shards(tmp_path)


def test_an_identity_is_of_the_content(tmp_path: Path) -> None:
    save_file(some(0), tmp_path / SINGLE)
    first, stamp = Shards(tmp_path).identity, (tmp_path / SINGLE).stat().st_mtime_ns
    assert Shards(tmp_path).identity == first
    save_file(some(1), tmp_path / SINGLE)
    os.utime(tmp_path / SINGLE, ns=(stamp, stamp))
    assert Shards(tmp_path).identity != first


def test_types_are_all_that_the_format_has_here() -> None:
    assert {torch.float32, torch.bfloat16, torch.bool} <= set(shards.types().values())
