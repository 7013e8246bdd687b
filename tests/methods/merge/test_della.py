"""merge/della."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

from truing.core.errors import InputError
from truing.methods.merge._della import keep_probabilities

NAME = "merge/della"


def test_probabilities_rise_with_the_rank_within_a_row() -> None:
    delta = torch.tensor([[1.0, -3.0, 2.0], [0.1, 0.0, -0.2]], dtype=torch.float64)
    wanted = torch.tensor([[0.3, 0.7, 0.5], [0.5, 0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(keep_probabilities(delta, density=0.5, epsilon=0.2), wanted)


def test_numbers_are_kept_as_often_as_that() -> None:
    rows = torch.tensor([[1.0, 4.0, 2.0, 3.0]], dtype=torch.float64).repeat(20_000, 1)
    made = merged(NAME, torch.zeros_like(rows), rows, density=0.5, epsilon=0.3, rescale="none")
    shares = (made != 0).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.8, 0.4, 0.6], dtype=torch.float64), rtol=0, atol=0.02)


def test_the_sum_of_sizes_is_restored() -> None:
    delta = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = merged(NAME, torch.zeros_like(delta), delta, density=0.4, epsilon=0.1)
    assert float(made.abs().sum()) == pytest.approx(float(delta.abs().sum()))


def test_full_density_is_a_mean_or_a_sum() -> None:
    made = merged(NAME, vector(0, 0), vector(1, 2), vector(3, -5), density=1.0)
    close(made, [2, -5] if NAME == "merge/della" else [4, -3])


def test_probabilities_beyond_1_are_refused() -> None:
    with pytest.raises(InputError, match="leaves the probabilities"):
        merged(NAME, vector(0, 0), vector(1, 2), density=0.9, epsilon=0.2)
