"""Keeping numbers by how large they are among all of their tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from truing.core.lazy import F, torch
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._rank import Bar, largest

_LEAST, _MOST = 1 << 16, 1 << 20  # numbers of a sample


def bars(site: Site, ranks: Sequence[Sequence[int]]) -> list[list[Bar]]:
    """For each donor, where the ``k`` largest differences from the base end, for each ``k`` of its ranks."""

    def sizes() -> Iterator[tuple[int, torch.Tensor]]:
        for at in site.stretches():
            yield at.start, at.deltas.abs().flatten(1)

    wanted = min(max(site.size >> 6, _LEAST), _MOST)
    if site.size < 4 * wanted or not site.cut:
        return largest(sizes, ranks, site.size)
    sample = torch.cat([at.deltas.abs() for at in site.sample(wanted)], 1)
    return largest(sizes, ranks, site.size, sample)


def trimmed(at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor | None:
    """What is among the ``k`` largest by the first bar of each donor, and not by its second, ``(K, *S)``."""
    if all(len(row) == 1 and row[0].size == -torch.inf for row in found):
        return None
    rows = []
    for delta, (bar, *outliers) in zip(at.deltas, found, strict=True):
        sizes = delta.abs().flatten()
        kept = bar.over(sizes, at.start)
        for above in outliers:
            kept &= ~above.over(sizes, at.start)
        rows.append(kept.reshape(delta.shape))
    return torch.stack(rows)


def shrunk(at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor | None:
    """The differences with zeros for what :func:`trimmed` leaves out; None where a mask is needed to say it."""
    if any(len(row) > 1 or not math.isinf(row[0].last) for row in found):
        return None
    made = torch.empty_like(at.deltas)
    for delta, row, (bar,) in zip(at.deltas, made, found, strict=True):
        below = torch.nextafter(torch.tensor(bar.size, dtype=delta.dtype), torch.tensor(-1.0, dtype=delta.dtype))
        row.copy_(delta) if bar.size <= 0 else row.copy_(F.hardshrink(delta, float(below)))
    return made


def outlier_ranks(count: int, density: float, gamma: float) -> list[int]:
    """How many of the largest are cut off at which end, for a share ``density`` without the ``gamma`` largest.

    Where the two leave nothing to cut off below, fewer of the largest are cut off, so that ``density`` stays.

    Example:
        >>> outlier_ranks(100, 0.9, 0.01), outlier_ranks(100, 0.9, 0.3), outlier_ranks(100, 0.5, 0.001)
        ([91, 1], [100, 10], [50, 0])
    """
    if density >= 1:
        return [count, 0]
    kept, top = int(density * count), int(gamma * count)
    top = min(top, count - kept)
    return [kept + top, top]
