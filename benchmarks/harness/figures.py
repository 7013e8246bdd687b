"""From repeated runs to figures: medians, ratios, differences, and a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
COMPARED = ("loss", "logps/chosen", "logps/rejected", "rewards/margins", "grad_norm")


def median(runs: Sequence[Row], key: str) -> float:
    """The median of a figure over repeats."""
    return float(statistics.median(float(run[key]) for run in runs))


def spread(runs: Sequence[Row], key: str) -> float:
    """(most - least) / median of a figure over repeats; 0 for one run."""
    values = [float(run[key]) for run in runs]
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def memory(run: Row) -> int:
    """Peak memory of a run, bytes: the accelerator's own where one is used, else main memory."""
    return int(run.get("device_bytes", 0)) or int(run["peak_bytes"])


def peak(runs: Sequence[Row]) -> float:
    """The median over repeats of the peak memory, bytes."""
    return float(statistics.median(memory(run) for run in runs))


def number(value: object) -> str:
    """Three significant digits for a fraction; whole numbers as they are.

    Example:
        >>> number(7.5612), number(363.2), number(48), number("x")
        ('7.56', '363', '48', 'x')
    """
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = next((d for d, least in ((0, 100), (1, 10), (2, 1)) if abs(value) >= least), 3)
    return f"{value:.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys as a Markdown table, aligned to be read as text too; numbers stand to the right.

    Raises:
        ValueError: rows of different keys.
    """
    if not rows:
        return ""
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        raise ValueError("the rows of a table need the same columns in the same order")
    cells = [[number(row[name]) for name in names] for row in rows]
    right = [all(isinstance(row[name], int | float) for row in rows) for name in names]
    widths = [max(3, len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]

    def line(texts: Sequence[str]) -> str:
        padded = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(names), "| " + " | ".join(rule) + " |", *map(line, cells)])


def against(ours: Sequence[Row], peers: Mapping[str, Sequence[Row]], *, work: float, unit: str) -> list[dict[str, Any]]:
    """A table row for us and one for each peer: seconds, rate, memory, and what we are by that peer.

    Args:
        work: how much was done in ``seconds``, in ``unit``.
    """
    own = median(ours, "seconds")
    rows = []
    for name, runs in {"truing": ours, **peers}.items():
        seconds = median(runs, "seconds")
        rows.append(
            {
                "side": name,
                "seconds": seconds,
                f"s/{unit}": seconds / work,
                "peak GB": peak(runs) / 1e9,
                "spread": f"{100 * spread(runs, 'seconds'):.0f} %",
                "we are faster by": seconds / own,
                "our share of its memory": peak(ours) / peak(runs),
            }
        )
    return rows


def differences(ours: Sequence[Row], theirs: Sequence[Row]) -> dict[str, float]:
    """The largest difference of each training metric over the steps that both logged; metrics in :data:`COMPARED`."""
    found: dict[str, float] = {}
    for left, right in zip(ours, theirs, strict=False):
        for name in COMPARED:
            if name in left and name in right:
                found[name] = max(found.get(name, 0.0), abs(float(left[name]) - float(right[name])))
    return found


def flatness(values: Sequence[float]) -> float:
    """How far figures are apart: the largest over the smallest, less 1."""
    return max(values) / min(values) - 1
