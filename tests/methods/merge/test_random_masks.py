"""merge/dare_linear and merge/dare_ties: what is dropped at random. How the rest is added is in their own files."""

from __future__ import annotations

import pytest
import torch
from bags import merged, vector

from truing.engine.tensors import STRETCH

BOTH = pytest.mark.parametrize("name", ["merge/dare_linear", "merge/dare_ties"])


@pytest.mark.parametrize("density", [0.2, 0.7])
@BOTH
def test_the_mean_over_seeds_is_the_difference(name: str, density: float) -> None:
    """Of one donor, kept with probability p and divided by p: within four standard errors over 40,000 draws."""
    delta = vector(1.0, -2.0, 0.5).repeat(40_000)
    made = merged(name, torch.zeros_like(delta), delta, density=density).reshape(-1, 3)
    error = delta[:3].abs() * ((1 - density) / density / 40_000) ** 0.5
    assert bool(((made.mean(0) - delta[:3]).abs() < 4 * error).all())
    assert made.abs().unique().tolist() == pytest.approx([0.0, *(delta.abs() / density).unique().tolist()])


@BOTH
def test_the_sum_of_sizes_is_kept_exactly(name: str) -> None:
    delta = torch.randn(3 * STRETCH // 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = merged(name, torch.zeros_like(delta), delta, density=0.4, rescale="l1")
    assert float(made.abs().sum()) == pytest.approx(float(delta.abs().sum()))


@BOTH
def test_without_rescaling_numbers_stay_or_go(name: str) -> None:
    delta = vector(*range(1, 200))
    made = merged(name, torch.zeros_like(delta), delta, density=0.5, rescale="none")
    assert bool(((made == 0) | (made == delta)).all())
    assert 60 < int((made != 0).sum()) < 140


@BOTH
def test_a_mask_is_its_seed_tensor_donor_and_place(name: str) -> None:
    delta = vector(*range(1, 200))
    one, again, other = (merged(name, torch.zeros_like(delta), delta, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    both = merged(name, torch.zeros_like(delta), delta, delta, seed=1)
    assert int((both != 0).sum()) > int((one != 0).sum())  # the second donor has a mask of its own


@BOTH
def test_none_and_all_are_exact_beside_another_share(name: str) -> None:
    """Each donor has a density of its own; its numbers are told apart by their places."""
    size = 30_000
    deltas = torch.zeros(3, 3 * size, dtype=torch.float64)
    for donor in range(3):
        deltas[donor, donor * size : (donor + 1) * size] = 1.0
    made = merged(name, torch.zeros(3 * size, dtype=torch.float64), *deltas, density=(0.0, 0.3, 1.0), rescale="none")
    none, some, every = ((part != 0).double().mean() for part in made.split(size))
    assert (float(none), float(every)) == (0.0, 1.0)
    assert abs(float(some) - 0.3) < 4 * (0.3 * 0.7 / size) ** 0.5
