"""merge/breadcrumbs and merge/breadcrumbs_ties: what is dropped by size. How the rest is added is in their files."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

BOTH = pytest.mark.parametrize("name", ["merge/breadcrumbs", "merge/breadcrumbs_ties"])


@BOTH
def test_neither_the_smallest_nor_the_largest(name: str) -> None:
    """Of ten sizes the largest goes (gamma 0.1), and the four smallest, so that half is left."""
    delta = vector(*range(1, 11))
    close(merged(name, torch.zeros_like(delta), delta, density=0.5, gamma=0.1), [0, 0, 0, 0, 5, 6, 7, 8, 9, 0])


@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.0), (0.9, 0.3), (0.5, 0.01)])
@BOTH
def test_the_share_that_is_kept_is_kept_to_whatever_gamma(name: str, density: float, gamma: float) -> None:
    """Also where gamma takes no number (another program then keeps none), and where it asks for more than may go."""
    delta = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = merged(name, torch.zeros_like(delta), delta, density=density, gamma=gamma)
    assert int((made != 0).sum()) == int(density * 50)
