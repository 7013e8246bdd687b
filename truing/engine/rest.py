"""Weights that nobody reads for a while, on the disk instead of in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from truing.core.lazy import torch

LEAST = 2**26  # bytes; less is not worth a file
ALIGNMENT = 64  # bytes: what torch allocates at


@contextmanager
def at_rest(tensors: Iterable[torch.Tensor], folder: Path) -> Iterator[None]:
    """Within it, the tensors lie in a file, which takes no memory until somebody reads them; after it, where they lay.

    They keep their values throughout, and may be read. The file has no name, so that nothing is left of it however the
    process ends. Where the system has no such files, or the disk no room, the tensors stay where they are.

    Args:
        tensors: each once, contiguous; those of less than 64 MB together stay.
        folder: on the disk that the file shall be on.
    """
    held = [tensor for tensor in tensors if tensor.is_contiguous()]
    starts, size = [], 0
    for tensor in held:
        starts.append(size)
        size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    mapped = _mapped(folder, size) if size >= LEAST else None
    if mapped is None:
        yield
        return
    flat = torch.frombuffer(mapped, dtype=torch.uint8)
    devices = [tensor.device for tensor in held]
    for tensor, start in zip(held, starts, strict=True):
        place = flat[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor.detach())
    mapped.madvise(mmap.MADV_DONTNEED)  # of a shared mapping: the pages are the file's, and are read again from it
    try:
        yield
    finally:
        for tensor, device, start in zip(held, devices, starts, strict=True):
            tensor.data = torch.empty_like(tensor, device=device, requires_grad=False).copy_(tensor.detach())
            mapped.madvise(mmap.MADV_DONTNEED, 0, max(mmap.PAGESIZE, start // mmap.PAGESIZE * mmap.PAGESIZE))


def _mapped(folder: Path, size: int) -> mmap.mmap | None:
    """A mapping of a new nameless file; None where there is no room, or the system is none that can say so before."""
    if not hasattr(os, "posix_fallocate") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a page that finds no room later would end the process
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None
