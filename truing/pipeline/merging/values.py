"""Parameters that depend on tensor and depth: a value, a gradient of values, or values by filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truing.core.errors import Fault


def value_at(setting: Any, name: str, depth: float) -> Any:
    """A parameter at one tensor; None where no filter fits.

    Args:
        setting: a value; a list of numbers, which are interpolated from the first block to the last; a list of other
            values, of which the one at the depth is taken; or a list of ``{filter, value}``, of which the first counts
            whose filter is part of the name, or which has none.
        depth: 0 for the first block of a slice, 1 for its last.

    Example:
        >>> value_at([0, 1, 0], "", 0.25), value_at([{"filter": "mlp", "value": 0.5}, {"value": 1}], "h.0.mlp.w", 0)
        (0.5, 0.5)
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if all(isinstance(part, Mapping) for part in setting):
        fits = (part for part in setting if part.get("filter") in (None, "*") or str(part["filter"]) in name)
        return next((value_at(part["value"], name, depth) for part in fits), None)
    if any(isinstance(part, str | bool) for part in setting):
        return setting[int(depth * (len(setting) - 1))]
    at = depth * (len(setting) - 1)
    low = int(at)
    high = min(low + 1, len(setting) - 1)
    return (1 - (at - low)) * setting[low] + (at - low) * setting[high]


def first(name: str, levels: Sequence[Mapping[str, Any]], tensor: str, depth: float) -> Any:
    """A parameter at one tensor from the nearest level that says something: source, slice, module, file."""
    found = (value_at(level[name], tensor, depth) for level in levels if name in level)
    return next((value for value in found if value is not None), None)


def setting_faults(setting: Any, place: str) -> list[Fault]:
    """What is wrong with the form of a parameter."""
    if setting is None or isinstance(setting, int | float | str):
        return []
    rows = [setting] if isinstance(setting, Mapping) else setting
    if not isinstance(rows, list) or not rows:
        return [Fault(place, f"is {setting!r}", "Give a value, a list of numbers, or a list of {filter, value}.")]
    if all(isinstance(row, Mapping) for row in rows):
        faults = [
            Fault(f"{place}[{i}]", f"has the keys {sorted(row)}", "Give value, and filter where it is not for all.")
            for i, row in enumerate(rows)
            if "value" not in row or set(row) - {"filter", "value"}
        ]
        return faults or [fault for row in rows for fault in setting_faults(row["value"], place)]
    if all(isinstance(row, int | float | str) for row in rows):
        return []
    return [Fault(place, f"mixes values and filters: {setting!r}", "Give numbers only, or {filter, value} only.")]
