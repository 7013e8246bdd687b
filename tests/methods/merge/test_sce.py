"""merge/sce."""

from __future__ import annotations

import torch
from bags import close, merged


def brute(base: torch.Tensor, donors: torch.Tensor, share: float) -> list[float]:
    """Select, calculate, erase, number by number."""
    deltas = (donors - base).tolist()
    size, count = len(deltas[0]), len(deltas)
    columns = [[deltas[k][i] for k in range(count)] for i in range(size)]
    variance = [sum((x - sum(c) / count) ** 2 for x in c) / count for c in columns]
    chosen = sorted(range(size), key=lambda i: -variance[i])[: int(sum(v > 0 for v in variance) * share)]
    kept = [[d if i in chosen else 0.0 for i, d in enumerate(row)] for row in deltas]
    squares = [sum(d * d for d in row) for row in kept]
    weights = [square / sum(squares) for square in squares]
    made = []
    for i in range(size):
        sign = 1 if sum(row[i] for row in kept) >= 0 else -1
        agreed = [(w, row[i]) for w, row in zip(weights, kept, strict=True) if row[i] * sign > 0]
        total = sum(w for w, _ in agreed)
        made.append(float(base[i]) + (sum(w * d for w, d in agreed) / total if total else 0.0))
    return made


def test_every_number_is_as_written_out() -> None:
    base, *donors = torch.randn(4, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for share in (1.0, 0.6, 0.1):
        wanted = brute(base, torch.stack(donors), share)
        close(merged("merge/sce", base, *donors, select_topk=share), wanted, 1e-9)


def test_where_all_donors_are_alike_nothing_is_selected() -> None:
    base, donor = torch.zeros(5, dtype=torch.float64), torch.arange(5, dtype=torch.float64)
    assert torch.equal(merged("merge/sce", base, donor, donor, select_topk=0.9), base)
    close(merged("merge/sce", base, donor, donor), donor)


def test_small_differences_are_weighed_as_large_ones() -> None:
    """The weights are ratios: a thousandth of the differences is merged to a thousandth."""
    base = torch.zeros(9, dtype=torch.float64)
    one, other = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close(merged("merge/sce", base, one * 1e-3, other * 1e-3) * 1e3, merged("merge/sce", base, one, other), 1e-9)
