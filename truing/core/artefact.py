"""What a run leaves behind: a policy as a folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.core.errors import bad
from truing.core.evidence import Judge
from truing.core.files import write_folder
from truing.core.policy import Policy

if TYPE_CHECKING:
    from truing.core.method import Method

WRAPPED = "truing.json"


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
