"""Files and folders that are whole or not there: made under a temporary name, brought to the disk, and renamed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from truing.core.errors import RunError, bad

UNFINISHED = ".unfinished-"
"""How the name of what is still being written begins. A process that was killed may leave some behind."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file elsewhere on the same disk, then rename it: no reader ever sees half of it.

    Raises:
        RunError: the disk is full or cannot be written to; what was under ``path`` is still there.
    """
    with _elsewhere(path) as made:
        write(made)
        made.chmod(0o644)
        _settle(made)
        os.replace(made, path)


def write_text(path: Path, text: str) -> None:
    """A small file in UTF-8, whole or not there.

    Half of a surrogate pair, which a model behind an endpoint can give, is written as JSON escapes it.

    Raises:
        RunError: the disk is full or cannot be written to.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda file: file.write_bytes(data))


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill`` write into an empty folder, then rename it: ``folder`` is whole or not there.

    Raises:
        RunError: the disk is full or cannot be written to.
        InputError: ``folder`` is there already.
    """
    if folder.exists():
        raise bad(str(folder), "exists already", "Give another name, or remove it.")
    with _elsewhere(folder) as made:
        made.mkdir(mode=0o755)
        fill(made)
        for file in made.rglob("*"):
            if file.is_file():
                _settle(file)
        os.replace(made, folder)


def sweep(folder: Path, *, older: float = 0.0) -> None:
    """Remove what killed processes left unfinished at any depth, where it is ``older`` than so many seconds."""
    for path in sorted(folder.rglob(f"{UNFINISHED}*")):
        try:
            if time.time() - path.stat().st_mtime >= older:
                shutil.rmtree(path)
        except OSError:
            continue  # another process was faster, or may not be disturbed


def file_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What reading and writing files raises, and ``more``; safetensors, where it is loaded, has a class of its own."""
    module = sys.modules.get("safetensors")
    return (OSError, *more) if module is None else (OSError, module.SafetensorError, *more)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what the system says of a failed write as a :class:`RunError` that names ``path``."""
    try:
        yield
    except file_errors() as error:
        raise RunError(
            f"{path}: cannot be written ({error}). Nothing is half written. Free some space, or make the folder "
            "writable, and go on with --resume."
        ) from error


@contextmanager
def _elsewhere(path: Path) -> Iterator[Path]:
    """Where ``path`` is made: under its own name in a temporary folder beside it, which is gone afterwards."""
    room = None
    with told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            room = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{UNFINISHED}{path.name}-"))
            yield room / path.name
        finally:
            if room is not None:
                shutil.rmtree(room, ignore_errors=True)


def _settle(file: Path) -> None:
    """On the disk before it is renamed: after a power cut the name must not stand for nothing, and a full disk at
    the other end of a network may be told only here."""
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
