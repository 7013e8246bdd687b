"""Keeping numbers by how large they are among all of their tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from truing.core.lazy import F, torch
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._rank import ALL, Bar, largest

_LEAST, _MOST = 1 << 14, 1 << 20  # numbers of a sample


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


def trimmed(at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor:
    """The differences that are among the ``k`` largest by the first bar of each donor, and not by its second; zeros
    for the others, ``(K, *S)``."""
    if all(row == [ALL] for row in found):
        return at.deltas
    made = torch.empty_like(at.deltas)
    for delta, row, (bar, *outliers) in zip(at.deltas, made, found, strict=True):
        _shrink(delta, bar, at.start, row)
        for above in outliers:
            row.sub_(_shrink(delta, above, at.start, torch.empty_like(delta)))
    return made


def _shrink(delta: torch.Tensor, bar: Bar, start: int, into: torch.Tensor) -> torch.Tensor:
    """``delta`` with zeros for all that is not over the bar. One pass; a mask would take four times as long."""
    if bar.size <= 0:
        return into.copy_(delta)
    kind, count = delta.dtype, delta.numel()
    below = float(torch.nextafter(torch.tensor(bar.size, dtype=kind), torch.tensor(0.0, dtype=kind)))
    split = count if math.isinf(bar.last) else min(max(int(bar.last) + 1 - start, 0), count)
    given, made = delta.flatten(), into.view(-1)
    made[:split] = F.hardshrink(given[:split], below)  # as large as the bar is enough, up to its last place
    made[split:] = F.hardshrink(given[split:], bar.size)
    return into


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
