"""Tensors in the safetensors files of a folder: looked through when opened, read when asked for.

Read by ``pread`` into memory of their own, not mapped: a mapped page counts as this process's memory for as long as
the kernel likes, a read one is given back with its tensor.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, RunError, bad
from truing.core.lazy import torch
from truing.engine.tensors import STRETCH, Spec, Tensors

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST = 100_000_000  # bytes of a header, as the format has it
_SAMPLES, _SAMPLE = 64, 1 << 16


@cache
def types() -> Mapping[str, torch.dtype]:
    """The format's names of types."""
    names = {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
        "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32",
        "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    }  # fmt: skip
    return {short: getattr(torch, name) for short, name in names.items() if hasattr(torch, name)}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    Attributes:
        file: an open descriptor.
        offset: bytes from the beginning of the file.
        path: for messages.
    """

    file: int
    offset: int
    path: Path


class Shards(Tensors):
    """The tensors of a folder. The files stay open as long as this does.

    Args:
        single: the name of the file where there is no index.

    Attributes:
        identity: a digest of what is in the files: their sizes, times, headers, and 64 samples of each.

    Raises:
        InputError: a file is missing, cut off, or no safetensors; every fault at once.
    """

    def __init__(self, folder: Path, single: str = SINGLE) -> None:
        self.folder = folder
        self._specs: dict[str, Spec] = {}
        self._places: dict[str, Place] = {}
        self._open: list[int] = []
        faults: list[Fault] = []
        sha = hashlib.sha256()
        for path, expected in _files(folder, single).items():
            try:
                sha.update(self._take(path, expected))
            except InputError as error:
                faults += error.faults
        if faults:
            raise InputError(*faults)
        self.identity = sha.hexdigest()

    def __del__(self) -> None:
        for file in getattr(self, "_open", []):
            os.close(file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def spec(self, name: str) -> Spec:
        return self._specs[name]

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        spec, place = self._specs[name], self._places[name]
        size = spec.dtype.itemsize
        raw = torch.empty((stop - start) * size, dtype=torch.uint8)
        view, offset = raw.numpy().data, place.offset + start * size
        while len(view):
            got = os.preadv(place.file, [view], offset)
            if not got:
                raise RunError(f"{place.path}: ended while {name} was being read. Was it written to meanwhile?")
            view, offset = view[got:], offset + got
        return raw.view(spec.dtype)

    def read(self, name: str) -> torch.Tensor:
        spec = self._specs[name]
        return self.stretch(name, 0, spec.count).reshape(spec.shape)

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        count = self._specs[name].count
        for start in range(0, count, 4 * STRETCH):
            yield start, self.stretch(name, start, min(start + 4 * STRETCH, count))

    def cheap(self, name: str) -> bool:
        return True

    def _take(self, path: Path, expected: frozenset[str] | None) -> bytes:
        """Open a file and read its header; what is learnt of it, for the identity."""
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise bad(str(path), f"cannot be opened: {error.strerror}", "Fetch the model again.") from error
        self._open.append(file)
        size = os.fstat(file).st_size
        header, begin, sha = _header(file, path, size)
        ends, faults = [begin], []
        for name, row in header.items():
            try:
                spec = Spec(tuple(map(int, row["shape"])), types()[row["dtype"]])
                first, last = row["data_offsets"]
            except (KeyError, TypeError, ValueError) as error:
                faults.append(Fault(str(path), f"{name}: its entry cannot be read ({error!r})"))
                continue
            if last - first != math.prod(spec.shape) * spec.dtype.itemsize:
                faults.append(Fault(str(path), f"{name}: {last - first} bytes do not hold {spec.shape}"))
            ends.append(begin + last)
            self._specs[name], self._places[name] = spec, Place(file, begin + first, path)
        if max(ends) != size:
            mend = "It was cut off, or never fetched to its end: fetch it again."
            faults.append(Fault(str(path), f"has {size} bytes and its header speaks of {max(ends)}", mend))
        if missing := sorted((expected or frozenset()) - header.keys()):
            faults.append(Fault(str(path), f"lacks {len(missing)} tensors of the index, {missing[0]!r} first"))
        if faults:
            raise InputError(*faults)
        sha.update(f"{path.name} {size} {os.fstat(file).st_mtime_ns}".encode())
        for k in range(_SAMPLES):
            sha.update(os.pread(file, _SAMPLE, begin + (size - begin) * k // _SAMPLES))
        return bytes(sha.digest())


def _header(file: int, path: Path, size: int) -> tuple[dict[str, Any], int, Any]:
    """The header, where the data begins, and a digest that has seen it."""
    mend = "Fetch it again; only safetensors are read."
    length = int.from_bytes(os.pread(file, 8, 0), "little") if size >= 8 else size
    if size < 8 or length > min(size - 8, _LONGEST):
        raise bad(str(path), f"is cut off, or is no safetensors file ({size} bytes)", mend)
    raw = os.pread(file, length, 8)
    try:
        found: dict[str, Any] = json.loads(raw)
    except ValueError as error:
        raise bad(str(path), "is no safetensors file: its header cannot be read", mend) from error
    found.pop("__metadata__", None)
    return found, 8 + length, hashlib.sha256(raw)


def _files(folder: Path, single: str) -> dict[Path, frozenset[str] | None]:
    """The files of a model, and which tensors its index says are in each."""
    index = folder / INDEX
    if not index.exists():
        if (folder / single).exists():
            return {folder / single: None}
        other = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.gguf"))]
        fact = f"holds no safetensors{f', only {sorted(other)[0]}' if other else ''}"
        raise bad(str(folder), fact, "Load and save it with transformers first: only safetensors are merged.")
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError) as error:
        raise bad(str(index), f"cannot be read ({error!r})", "Fetch it again.") from error
    by_file: dict[str, set[str]] = {}
    for name, file in listed.items():
        by_file.setdefault(Path(file).name, set()).add(name)
    return {folder / file: frozenset(names) for file, names in sorted(by_file.items())}
