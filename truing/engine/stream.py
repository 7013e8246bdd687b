"""Lazy tensors on several threads, each tensor by one: into safetensors files, or into memory.

Sizes are known before any number is, so a file's header is written first and every piece at its own place, in whatever
order the pieces come. A file has its name when all of it is on the disk. Every thread computes with one of torch's own
threads, so that sums are added up in the same order whatever the machine and wherever the result goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from truing.core.errors import bad
from truing.core.files import told
from truing.core.lazy import torch
from truing.core.run import Log
from truing.engine.memory import keeping
from truing.engine.shards import INDEX, SINGLE, types
from truing.engine.tensors import Tensors, natural

MOST = 5_000_000_000
"""Bytes of an output file, where nothing else is said."""
BUDGET = 1 << 30
"""Bytes of tensors in the making at a time; a tensor that takes more by itself is made alone."""
_SLACK = 64 << 20  # bytes that a disk keeps free
_PART = ".part"


def threads() -> int:
    """How many tensors are made at a time: as many as torch computes with, at least two, so that disks are not idle."""
    return max(2, torch.get_num_threads())


@dataclass
class Shard:
    """A file that is to be written.

    Attributes:
        offsets: of each tensor, bytes from the beginning of the file.
        left: tensors that are not written yet.
    """

    name: str
    head: bytes
    size: int
    offsets: dict[str, int]
    left: int


def layout(tensors: Tensors, most: int = MOST) -> list[Shard]:
    """The files that hold the tensors, none larger than ``most`` bytes unless one tensor is."""
    names = sorted(tensors, key=natural)
    groups: list[list[str]] = [[]]
    filled = 0
    for name in names:
        size = tensors.spec(name).size
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    count = len(groups)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    return [_shard(file, group, tensors) for file, group in zip(files, groups, strict=True)]


def _shard(file: str, names: Sequence[str], tensors: Tensors) -> Shard:
    short = {long: name for name, long in types().items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begins, at = {}, 0
    # Wide types first, so that every tensor begins at a multiple of its own width.
    for name in sorted(names, key=lambda name: -tensors.spec(name).dtype.itemsize):
        spec = tensors.spec(name)
        begins[name] = at
        header[name] = {"dtype": short[spec.dtype], "shape": list(spec.shape), "data_offsets": [at, at + spec.size]}
        at += spec.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return Shard(file, head, len(head) + at, {name: len(head) + begin for name, begin in begins.items()}, len(names))


def write(tensors: Tensors, folder: Path, log: Log, *, most: int = MOST, workers: int | None = None) -> None:
    """Write all tensors into a folder; files that stand there under their names already are kept as they are.

    Raises:
        InputError: the disk has no room for them; nothing was written.
        RunError: the disk could not be written to; finished files stay for another try.
    """
    shards = layout(tensors, most)
    total = sum(shard.size for shard in shards)
    todo = [shard for shard in shards if not (folder / shard.name).exists()]
    needed, free = sum(shard.size for shard in todo), shutil.disk_usage(folder).free
    if needed + _SLACK > free:
        fact = f"has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are to be written"
        raise bad(str(folder.parent), fact, "Free some space, or write elsewhere.")
    done, lock = [total - needed], threading.Lock()
    with told(folder), keeping(), contextlib.ExitStack() as files:
        jobs = []
        for shard in todo:
            part = folder / (shard.name + _PART)
            file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            files.callback(os.close, file)
            _put(file, shard.head, 0)

            def advance(size: int) -> None:
                with lock:
                    done[0] += size
                    log.progress("merging", done[0] / 1e6, total / 1e6, "MB")

            jobs += [
                (tensors.cost(name), _Write(tensors, name, shard, file, part, advance, lock)) for name in shard.offsets
            ]
        together(jobs, workers)
    if len(shards) > 1:
        listed = {name: shard.name for shard in shards for name in sorted(shard.offsets, key=natural)}
        size = sum(tensors.spec(name).size for name in tensors)
        text = json.dumps({"metadata": {"total_size": size}, "weight_map": listed}, indent=2)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Write:
    """One tensor into its place; whoever writes a file's last tensor gives it its name."""

    tensors: Tensors
    name: str
    shard: Shard
    file: int
    part: Path
    advance: Callable[[int], None]
    lock: threading.Lock

    def __call__(self, stopped: threading.Event) -> None:
        spec, offset = self.tensors.spec(self.name), self.shard.offsets[self.name]
        written = 0
        for start, piece in self.tensors.pieces(self.name):
            if stopped.is_set():
                return
            raw = piece.contiguous().view(torch.uint8).numpy().data
            _put(self.file, raw, offset + start * spec.dtype.itemsize)
            _begin_to_settle(self.file, offset + start * spec.dtype.itemsize, len(raw))
            written += len(raw)
            self.advance(len(raw))
        if written != spec.size:
            raise RuntimeError(f"{self.name}: {written} bytes came, {spec.size} were promised")
        with self.lock:
            self.shard.left -= 1
            last = not self.shard.left
        if last:
            os.fsync(self.file)
            os.replace(self.part, self.part.with_name(self.shard.name))


def _put(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        put = os.pwrite(file, view, offset)
        view, offset = view[put:], offset + put


def _begin_to_settle(file: int, offset: int, size: int) -> None:
    """Let the kernel write to the disk while the next numbers are computed, and not all at the end."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, offset, size, os.POSIX_FADV_DONTNEED)


def gather(tensors: Tensors, log: Log, *, workers: int | None = None) -> dict[str, torch.Tensor]:
    """All tensors in memory, in their order: the same bits that :func:`write` writes."""
    made: dict[str, torch.Tensor] = {}

    def take(name: str) -> Callable[[threading.Event], None]:
        def job(stopped: threading.Event) -> None:
            made[name] = tensors.read(name)
            log.progress("merging", len(made), len(tensors))

        return job

    together([(tensors.cost(name), take(name)) for name in tensors], workers)
    return {name: made[name] for name in tensors}


def together(jobs: Sequence[tuple[int, Callable[[threading.Event], None]]], workers: int | None = None) -> None:
    """Call jobs on threads, in order, as many at a time as their costs leave room for in :data:`BUDGET`.

    Whatever one of them raises, or Ctrl-C, stops the others at their next piece, and is raised here.
    """
    gate, stopped, before = threading.Condition(), threading.Event(), torch.get_num_threads()
    used = 0

    def finish(cost: int) -> None:
        nonlocal used
        with gate:
            used -= cost
            gate.notify_all()

    def call(job: Callable[[threading.Event], None], cost: int) -> None:
        try:
            if not stopped.is_set():
                with torch.no_grad():
                    job(stopped)
        except BaseException:
            stopped.set()
            raise
        finally:
            finish(cost)

    futures: list[Future[None]] = []
    pool = ThreadPoolExecutor(workers or threads(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        for cost, job in jobs:
            with gate:
                while used and used + cost > BUDGET:
                    gate.wait(0.5)
                used += cost
            futures.append(pool.submit(call, job, cost))
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() or not stopped.is_set():
                future.result()
    except BaseException:
        stopped.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=stopped.is_set())
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one of its threads, as the jobs of :func:`together` have it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
