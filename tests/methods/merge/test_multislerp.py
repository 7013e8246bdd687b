"""merge/multislerp."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

from truing.core.errors import InputError

BASE, *DONORS = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def through_the_tangent_space(points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """As it is described: from the mean direction into its tangent space, there the mean, and back."""
    lengths = points.norm(dim=1, keepdim=True)
    units = points / lengths
    middle = weights @ units
    middle = middle / middle.norm()
    tangents = units - (units @ middle)[:, None] * middle
    step = weights @ tangents
    size = step.norm() + 1e-8
    return (middle * size.cos() + step * size.sin() / size) * (weights @ lengths)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 2.0, 0.7)])
def test_it_is_the_step_through_the_tangent_space(weights: tuple[float, ...]) -> None:
    points = torch.stack([(donor - BASE).flatten() for donor in DONORS])
    shares = vector(*weights) / sum(weights)
    wanted = BASE + through_the_tangent_space(points, shares).reshape(3, 5)
    close(merged("merge/multislerp", BASE, *DONORS, weight=weights), wanted, 1e-6)


def test_from_zero_the_base_has_no_part() -> None:
    wanted = through_the_tangent_space(
        torch.stack([donor.flatten() for donor in DONORS]), torch.full((3,), 1 / 3).double()
    )
    for base in (BASE, BASE * 7):
        close(merged("merge/multislerp", base, *DONORS, origin="zero"), wanted.reshape(3, 5), 1e-6)


def test_two_opposite_donors_are_averaged_and_three_are_refused() -> None:
    one, zero = vector(1, 2), vector(0, 0)
    close(merged("merge/multislerp", zero, one, -one), [0, 0])
    with pytest.raises(InputError, match="cancel out"):
        merged("merge/multislerp", zero, vector(1, 0), vector(-1, 0), vector(0, 0))


def test_donors_that_are_the_base_give_the_base() -> None:
    close(merged("merge/multislerp", BASE, BASE, BASE, BASE), BASE)
