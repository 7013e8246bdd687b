"""merge/arcee_fusion."""

from __future__ import annotations

import math

import torch
from bags import merged


def test_what_stands_out_is_taken_over_whole() -> None:
    """Importance and threshold written out for a matrix of four rows."""
    base, donor = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = []
    for own, their in zip(base.tolist(), donor.tolist(), strict=True):
        p, q = ([math.exp(x) / sum(map(math.exp, row)) + 1e-8 for x in row] for row in (their, own))
        divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        scores += [abs(a - b) * divergence for a, b in zip(their, own, strict=True)]
    ranked = sorted(scores)
    low, middle, high = (ranked[int(q * 23)] for q in (0.25, 0.5, 0.75))
    taken = torch.tensor([score >= middle + 1.5 * (high - low) for score in scores]).reshape(4, 6)
    assert 0 < int(taken.sum()) < 24
    assert torch.equal(merged("merge/arcee_fusion", base, donor), torch.where(taken, base + (donor - base), base))
