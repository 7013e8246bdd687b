"""What is logged, summed where it is computed: a device is asked for its numbers once a log interval.

Asking makes the host wait until the device has done all that it was given. So sums stay tensors, and so does the answer
to whether all was finite; both are read when a row is logged, and before anything is saved or evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truing.core.errors import RunError
from truing.core.lazy import torch

HEED = 10
"""Steps between two looks at whether all was finite, where no row is logged meanwhile."""


def wide(values: torch.Tensor) -> torch.Tensor:
    """In float64, where the device has it."""
    return values.detach().to(torch.float32 if values.device.type == "mps" else torch.float64)


class Meter:
    """Sums of named values since the last reading, and the first step whose loss or gradient was not finite.

    Args:
        add_up: adds tensors up over processes, in place; each of them then takes in the same names in the same order,
            and all of them read, check and write down together. None where there is one process.
    """

    def __init__(self, add_up: Callable[[Sequence[torch.Tensor]], None] | None = None) -> None:
        self.add_up = add_up
        self._sums: dict[tuple[str, ...], torch.Tensor] = {}
        self._counts: dict[tuple[str, ...], list[float]] = {}
        self._wrong: torch.Tensor | None = None  # (3,): step (0 is none), loss, norm of the gradient

    def add(self, values: Mapping[str, torch.Tensor], count: float | None = None, *, counts: bool = True) -> None:
        """Take in values, each ``(n,)``; n may differ from name to name, and be 0.

        Args:
            count: what their means are over; each name's ``n`` where it is None.
            counts: False for values that count nothing, of a process that only keeps step with others.
        """
        if not values:
            return
        names = tuple(values)
        sums = torch.stack([wide(value).sum() for value in values.values()])
        before = self._sums.get(names, torch.zeros_like(sums))
        self._sums[names] = before.to(sums) + (sums if counts else torch.zeros_like(sums))
        more = [float(len(value)) if count is None else count for value in values.values()]
        known = self._counts.get(names, [0.0] * len(names))
        self._counts[names] = [a + b for a, b in zip(known, more, strict=True)] if counts else known

    def watch(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        """Take note of whether step ``step`` (from 1) is finite; only the first that is not is kept."""
        now = torch.stack([wide(loss), wide(norm.to(loss.device))])
        row = torch.cat([now.new_full((1,), step), now])
        kept = torch.zeros_like(row) if self._wrong is None else self._wrong
        self._wrong = torch.where((kept[0] > 0) | torch.isfinite(now).all(), kept, row)

    def check(self) -> None:
        """Wait for the device.

        Raises:
            RunError: a step since the start was not finite, here or in another process.
        """
        self._gathered([])

    def read(self) -> dict[str, float]:
        """Means since the last reading, which is forgotten; names with nothing to divide by are left out.

        Raises:
            RunError: a step since the start was not finite, here or in another process.
        """
        state = self.state()
        self._sums, self._counts = {}, {}
        return {name: total / n for group in state for name, total, n in zip(*group, strict=True) if n}

    def state(self) -> list[tuple[list[str], list[float], list[float]]]:
        """Names, sums and counts of every group, of all processes: plain values, and all that :meth:`restore` needs.

        Raises:
            RunError: a step since the start was not finite, here or in another process.
        """
        counts = [total.new_tensor(self._counts[names]) for names, total in self._sums.items()]
        rest = iter(self._gathered([*self._sums.values(), *counts]))
        sums, numbers = ([[next(rest) for _ in names] for names in self._sums] for _ in range(2))
        return list(zip(map(list, self._sums), sums, numbers, strict=True))

    def restore(self, state: Sequence[Any], *, mine: bool = True) -> None:
        """Go on from what was written down, to the same bits. Of several processes, it is the main one's (``mine``)."""
        times = 1.0 if mine else 0.0
        self._sums = {tuple(n): times * torch.tensor(totals, dtype=torch.float64) for n, totals, _ in state}
        self._counts = {tuple(n): [times * count for count in counts] for n, _, counts in state}

    def _gathered(self, parts: Sequence[torch.Tensor]) -> list[float]:
        """The numbers of these vectors, over all processes, in the one transfer; refused if a step went wrong."""
        wrong = torch.zeros(3, dtype=torch.float64) if self._wrong is None else self._wrong
        own = wrong.to(parts[0]) if parts else wrong
        flat = torch.cat([(own[:1] > 0).to(own), *(part.to(own) for part in parts)])
        if self.add_up is not None:
            self.add_up([flat])
        anywhere, *numbers = torch.cat([flat[:1], own, flat[1:]]).tolist()
        if anywhere:
            step, loss, norm = numbers[:3]
            found = f"step {step:.0f}: loss or gradient is not finite ({loss}, {norm})"
            raise RunError(
                f"{found if step else 'loss or gradient is not finite in another process'}; nothing was saved "
                "from this step on. Lower learning_rate, or look at its examples with 'truing check'."
            )
        return numbers[3:]
