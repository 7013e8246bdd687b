"""What a run leaves behind: written under a temporary name, renamed when it is whole."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.core.errors import RunError, bad
from truing.core.evidence import Judge
from truing.core.policy import Policy

if TYPE_CHECKING:
    from truing.core.method import Method

WRAPPED = "truing.json"


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write into a temporary neighbour, then rename it: ``folder`` is whole or not there.

    Raises:
        RunError: the disk is full or cannot be written to.
        InputError: ``folder`` is there already.
    """
    if folder.exists():
        raise bad(str(folder), "exists already", "Give another name, or remove it.")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o755)
        fill(temporary)
        os.replace(temporary, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error}). Free some space or choose another --out.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def save_policy(policy: Policy, folder: Path) -> None:
    """A policy as a folder that :func:`truing.load` reads, and transformers too where it has weights."""
    write_folder(folder, policy.save)


def save_wrapped(folder: Path, method: Method[Any, Any], base: Policy, *, judge: Judge | None = None) -> None:
    """A method around a policy: its name and settings, and the policy itself or where it came from.

    A base that was loaded by name is kept by name and fingerprint, not copied.

    Raises:
        InputError: the judge has no spec, so that the policy could not be loaded again.
    """
    if judge is not None and judge.spec is None:
        mend = "Set its spec to what a recipe would write, e.g. 'python:judges.py:brevity'."
        raise bad(method.card.name, f"nothing says how to make its judge {judge.name!r} again", mend)
    settings = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    origin = getattr(base, "origin", None)
    if origin is not None and Path(origin).is_dir():
        origin = str(Path(origin).resolve())  # a folder named from here is not there from elsewhere
    row = {
        "method": method.card.name,
        "settings": settings,
        "judge": judge.spec if judge is not None else None,
        "base": origin or "base",
        "fingerprint": base.fingerprint,
    }
    (folder / WRAPPED).write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
    if origin is None:
        (folder / "base").mkdir()
        base.save(folder / "base")
