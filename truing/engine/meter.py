"""What is logged, summed where it is computed: a device is asked for its numbers once a log interval.

Asking makes the host wait until the device has done all that it was given. So sums stay tensors, and so does the answer
to whether all was finite; both are read when a row is logged, and before anything is saved or evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from truing.core.errors import RunError
from truing.core.lazy import torch

HEED = 10
"""Steps between two looks at whether all was finite, where no row is logged meanwhile."""


def wide(values: torch.Tensor) -> torch.Tensor:
    """In float64, where the device has it."""
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)


class Meter:
    """Sums of named values since the last reading, and the first step whose loss or gradient was not finite."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}
        self._counts: dict[tuple[str, ...], float] = {}
        self._wrong: torch.Tensor | None = None  # (3,): step (0 is none), loss, norm of the gradient

    def add(self, values: Mapping[str, torch.Tensor], count: float | None = None) -> None:
        """Take in values, each ``(n,)``; their mean is over ``count`` instead of ``n`` where that is given."""
        if not values:
            return
        names = tuple(values)
        sums = torch.stack([wide(value).sum() for value in values.values()])
        before = self._sums.get(names)
        self._sums[names] = sums if before is None else before.to(sums) + sums
        more = float(len(next(iter(values.values())))) if count is None else count
        self._counts[names] = self._counts.get(names, 0.0) + more

    def watch(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take note of whether step ``step`` (from 1) is finite; only the first that is not is kept."""
        now = torch.stack([wide(loss), wide(norm.to(loss.device))])
        row = torch.cat([now.new_full((1,), step), now])
        kept = torch.zeros_like(row) if self._wrong is None else self._wrong
        self._wrong = torch.where((kept[0] > 0) | torch.isfinite(now).all(), kept, row)

    def check(self) -> None:
        """Wait for the device.

        Raises:
            RunError: a step since the start was not finite.
        """
        if self._wrong is not None:
            _refuse(self._wrong.tolist())

    def read(self) -> dict[str, float]:
        """Means since the last reading, which is forgotten; names with nothing to divide by are left out.

        Raises:
            RunError: a step since the start was not finite.
        """
        found = self._read()
        named = [(name, key, total) for key, totals in found for name, total in zip(key, totals, strict=True)]
        means = {name: total / self._counts[key] for name, key, total in named if self._counts[key] > 0}
        self._sums, self._counts = {}, {}
        return means

    def _read(self) -> list[tuple[tuple[str, ...], list[float]]]:
        """The sums of every group, in one transfer."""
        wrong = [] if self._wrong is None else [self._wrong]
        if not self._sums:
            self.check()
            return []
        device = next(iter(self._sums.values())).device
        flat = torch.cat([*(part.to(device) for part in wrong), *(total.to(device) for total in self._sums.values())])
        numbers = flat.tolist()
        if wrong:
            _refuse(numbers[:3])
            numbers = numbers[3:]
        rest = iter(numbers)
        return [(key, [next(rest) for _ in key]) for key in self._sums]

    def state(self) -> list[Any]:
        """Plain values from which :meth:`restore` goes on to the same bits."""
        return [[list(key), totals, self._counts[key]] for key, totals in self._read()]

    def restore(self, state: Sequence[Any]) -> None:
        """The inverse of :meth:`state`."""
        self._sums = {tuple(names): torch.tensor(totals, dtype=torch.float64) for names, totals, _ in state}
        self._counts = {tuple(names): count for names, _, count in state}


def _refuse(wrong: Sequence[float]) -> None:
    step, loss, norm = wrong
    if step > 0:
        raise RunError(
            f"step {step:.0f}: loss or gradient is not finite ({loss}, {norm}); nothing was saved from this step on. "
            "Lower learning_rate, or look at its examples with 'truing check'."
        )
