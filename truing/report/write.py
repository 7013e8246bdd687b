"""``report.html`` and ``report.md`` from run folders, under their names only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from truing.core.errors import bad
from truing.report import document, markdown
from truing.report.study import gather


def write(folders: Sequence[Path], out: Path | None = None) -> tuple[Path, Path]:
    """The report of one run, or of several side by side.

    Args:
        folders: what ``truing run`` wrote, at least one: ``run.json``, ``measures.jsonl`` and, where there are any,
            ``samples.jsonl`` and training logs.
        out: the folder to write into, made where it is missing; the first run folder where it is None.

    Returns: the paths of ``report.html`` and ``report.md``. Equal input gives equal bytes.

    Raises:
        InputError: no folder, a file missing, a line that cannot be read (all of them at once), plotly missing, or
            ``out`` is not a folder.
    """
    if not folders:
        raise bad("report", "no run folder was given", "Give at least one folder that 'truing run' wrote.")
    study = gather([Path(folder) for folder in folders])
    pages = {"report.html": document.page(study), "report.md": markdown.page(study)}
    target = Path(folders[0]) if out is None else Path(out)
    if target.exists() and not target.is_dir():
        raise bad(str(target), "is not a folder", "Name a folder for the report.")
    target.mkdir(parents=True, exist_ok=True)
    for name, content in pages.items():
        _replace(target / name, content)
    return target / "report.html", target / "report.md"


def _replace(path: Path, content: str) -> None:
    """Write beside the file, then rename: a reader sees the old page or the new one, never half of one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Model output may hold half of a surrogate pair, which UTF-8 has no bytes for.
        beside.write_bytes(content.encode("utf-8", errors="replace"))
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
