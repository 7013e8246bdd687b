"""merge/breadcrumbs."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

NAME, TIES = "merge/breadcrumbs", False


def test_neither_the_smallest_nor_the_largest() -> None:
    """Of ten sizes the largest goes (gamma 0.1), and the four smallest, so that half is left."""
    delta = vector(*range(1, 11))
    close(merged(NAME, torch.zeros_like(delta), delta, density=0.5, gamma=0.1), [0, 0, 0, 0, 5, 6, 7, 8, 9, 0])


@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.0), (0.9, 0.3), (0.5, 0.01)])
def test_the_share_that_is_kept_is_kept_to_whatever_gamma(density: float, gamma: float) -> None:
    """Also where gamma takes no number (another program then keeps none), and where it asks for more than may go."""
    delta = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = merged(NAME, torch.zeros_like(delta), delta, density=density, gamma=gamma)
    assert int((made != 0).sum()) == int(density * 50)


def test_two_donors() -> None:
    """Where signs differ, the larger sum wins with an election, and both are added without."""
    base, one, other = vector(0, 0, 0, 0), vector(1, 2, 3, 9), vector(-4, 1, 2, 8)
    wanted = [-4, 3, 5, 17] if TIES else [-3, 3, 5, 17]
    close(merged(NAME, base, one, other, density=1.0), wanted)
