"""merge/dare_ties."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

from truing.engine.tensors import STRETCH

NAME = "merge/dare_ties"
BASE, ONE, OTHER = vector(1, 2, 3), vector(2, 0, 3.5), vector(1, 5, 4)
LIMIT = "merge/ties"


def test_full_density_drops_nothing() -> None:
    rest = {"density": 1.0, "rescale": "none", "normalize": False} if LIMIT == "merge/ties" else {}
    close(
        merged(NAME, BASE, ONE, OTHER, density=1.0, weight=(0.3, 2.0)),
        merged(LIMIT, BASE, ONE, OTHER, weight=(0.3, 2.0), **rest),
    )


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_the_mean_over_seeds_is_the_difference(density: float) -> None:
    """Of one donor, kept with probability p and divided by p: within four standard errors over 40,000 draws."""
    delta = vector(1.0, -2.0, 0.5).repeat(40_000)
    made = merged(NAME, torch.zeros_like(delta), delta, density=density).reshape(-1, 3)
    error = delta[:3].abs() * ((1 - density) / density / 40_000) ** 0.5
    assert bool(((made.mean(0) - delta[:3]).abs() < 4 * error).all())
    assert made.abs().unique().tolist() == pytest.approx([0.0, *(delta.abs() / density).unique().tolist()])


def test_the_sum_of_sizes_is_kept_exactly() -> None:
    delta = torch.randn(3 * STRETCH // 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = merged(NAME, torch.zeros_like(delta), delta, density=0.4, rescale="l1")
    assert float(made.abs().sum()) == pytest.approx(float(delta.abs().sum()))


def test_without_rescaling_numbers_stay_or_go() -> None:
    delta = vector(*range(1, 200))
    made = merged(NAME, torch.zeros_like(delta), delta, density=0.5, rescale="none")
    assert bool(((made == 0) | (made == delta)).all())
    assert 60 < int((made != 0).sum()) < 140


def test_a_mask_is_its_seed_tensor_donor_and_place() -> None:
    delta = vector(*range(1, 200))
    one, again, other = (merged(NAME, torch.zeros_like(delta), delta, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    both = merged(NAME, torch.zeros_like(delta), delta, delta, seed=1)
    assert int((both != 0).sum()) > int((one != 0).sum())  # the second donor has a mask of its own
