"""Rows of which none may be left out: what is measured over other rows is another measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from truing.core.errors import Fault
from truing.data.sources import Source, rows

T = TypeVar("T")


def every_row(
    spec: object, place: str, check: Callable[[Mapping[str, Any], str], list[Fault]], make: Callable[[Any], T]
) -> tuple[list[T], list[Fault]]:
    """What each row comes to, as many as the source's limit lets through, and the faults of all others.

    Args:
        spec: of the source.
        check: from a row and its place to what is wrong with it.
        make: from a row without faults.
    """
    source, made, faults = Source.of(spec, place), list[T](), list[Fault]()
    for row in rows(source):
        if len(made) == source.limit:
            break
        wrong = [row.value] if isinstance(row.value, Fault) else check(row.value, f"{place}:{row.where}")
        faults += wrong
        if not wrong:
            made.append(make(row.value))
    return made, faults
