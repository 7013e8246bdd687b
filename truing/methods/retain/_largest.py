"""The largest of very many numbers, without sorting them or holding them in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from truing.core.lazy import torch

LOW = 15  # bits of the second look: 2^16 counters for the first, 2^15 for the second


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Magnitudes as whole numbers in their own order, int32 >= 0: the bits of a float32 that is not negative."""
    return values.detach().abs().to(torch.float32).contiguous().view(torch.int32)


def largest(
    scores: Mapping[str, torch.Tensor], among: Mapping[str, torch.Tensor], count: int
) -> dict[str, torch.Tensor]:
    """Which entries have the ``count`` largest scores among some; of those tied at the border, none.

    Exact, in two passes of counting, so it needs the memory of one tensor and not of all.

    Args:
        scores: int32 >= 0, by name.
        among: masks of the same names and shapes.
        count: >= 0; all of them where there are no more.

    Returns:
        Masks, in which at most ``count`` entries are set.
    """
    bar = _next_after(count, scores, among)
    return {name: among[name] & (scores[name] > bar) for name in scores}


def _next_after(count: int, scores: Mapping[str, torch.Tensor], among: Mapping[str, torch.Tensor]) -> int:
    """The ``count + 1``-th largest score; -1 where there are no more than ``count``."""
    high, ahead = _bin(count, 1 << (31 - LOW), (scores[name][among[name]] >> LOW for name in scores))
    if high < 0:
        return -1
    inside = (scores[name][among[name] & (scores[name] >> LOW == high)] for name in scores)
    low, _ = _bin(count - ahead, 1 << LOW, (part & ((1 << LOW) - 1) for part in inside))
    return (high << LOW) | low


def _bin(count: int, size: int, parts: Iterable[torch.Tensor]) -> tuple[int, int]:
    """The bin in which the ``count + 1``-th largest lies, -1 for none, and how many lie in bins above it."""
    counts = torch.zeros(size, dtype=torch.int64)
    for part in parts:
        counts += torch.bincount(part, minlength=size).cpu()
    above = counts.flip(0).cumsum(0).flip(0)  # in this bin or a higher one
    reached = (above > count).nonzero()
    if not len(reached):
        return -1, 0
    at = int(reached[-1])
    return at, int(above[at] - counts[at])
