"""merge/iso_c."""

from __future__ import annotations

import torch
from bags import close, merged

ZERO = torch.zeros(5, 7, dtype=torch.float64)


def test_all_directions_weigh_the_same_and_the_sum_stays() -> None:
    one, other = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = merged("merge/iso_c", ZERO, one, other)
    values = torch.linalg.svdvals(one + other)
    close(torch.linalg.svdvals(made), values.mean().expand(5), 1e-10)
    left, _, right = torch.linalg.svd(one + other, full_matrices=False)
    close(left.T @ made @ right.T, torch.eye(5).double() * values.mean(), 1e-10)


def test_what_is_isotropic_stays() -> None:
    frame = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    close(merged("merge/iso_c", torch.zeros(5, 5).double(), 3 * frame), 3 * frame, 1e-10)
