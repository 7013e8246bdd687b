"""Numbers with an interval, an n and a name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measured number.

    Attributes:
        probe: what was measured, e.g. ``kl`` or ``win_rate``; the suffix after a dot names a variant
            (``win_rate.dpo`` is against that arm).
        value: the estimate.
        low, high: a 95 % interval; equal to the value where it is exact; None where none can be given.
        n: how many independent units (prompts, most often) stand behind it.
        unit: ``nats``, ``tokens``, ``s``, ``bytes``, ``probability`` ...
        kind: ``estimate``, ``exact`` or ``bound``.
        better: ``up``, ``down`` or ``none``.
        note: what a reader must know to read it right.
        arm, curve: the arm, and the curve (one method along its dial) that it is a point of.
        dial: the field that is swept and its value.
    """

    probe: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    kind: str = "estimate"
    better: str = "none"
    note: str = ""
    arm: str = ""
    curve: str = ""
    dial: tuple[str, float] | None = None

    def to_json(self) -> str:
        """One line for ``measures.jsonl``; keys in one order, so equal measures are equal bytes."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(line: str) -> Measure:
        """The inverse of :meth:`to_json`."""
        row = json.loads(line)
        row["dial"] = tuple(row["dial"]) if row.get("dial") else None
        return Measure(**row)


@dataclass(frozen=True)
class Measures:
    """A bundle of measures: the outcome of a probe or of a diagnostic method."""

    rows: Sequence[Measure] = field(default=())

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.rows)

    @staticmethod
    def of(rows: Iterable[Measure]) -> Measures:
        """From any iterable."""
        return Measures(tuple(rows))
