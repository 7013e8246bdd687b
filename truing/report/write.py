"""``report.html`` and ``report.md`` from run folders, under their names only when they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from truing.core.errors import bad
from truing.core.files import write_text
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
    for name, content in pages.items():
        # Model output may hold half of a surrogate pair, which UTF-8 has no bytes for.
        write_text(target / name, content.encode("utf-8", errors="replace").decode("utf-8"))
    return target / "report.html", target / "report.md"
