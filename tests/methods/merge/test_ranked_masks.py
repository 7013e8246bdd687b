"""merge/della and merge/della_linear: what is dropped by rank. How the rest is added is in their own files."""

from __future__ import annotations

import pytest
import torch
from bags import merged, vector

from truing.core.errors import InputError
from truing.methods.merge._della import keep_probabilities

BOTH = pytest.mark.parametrize("name", ["merge/della", "merge/della_linear"])


def test_probabilities_rise_with_the_rank_within_a_row() -> None:
    delta = torch.tensor([[1.0, -3.0, 2.0], [0.1, 0.0, -0.2]], dtype=torch.float64)
    wanted = torch.tensor([[0.3, 0.7, 0.5], [0.5, 0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(keep_probabilities(delta, density=0.5, epsilon=0.2), wanted)


@BOTH
def test_numbers_are_kept_as_often_as_that(name: str) -> None:
    rows = torch.tensor([[1.0, 4.0, 2.0, 3.0]], dtype=torch.float64).repeat(20_000, 1)
    made = merged(name, torch.zeros_like(rows), rows, density=0.5, epsilon=0.3, rescale="none")
    shares = (made != 0).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.8, 0.4, 0.6], dtype=torch.float64), rtol=0, atol=0.02)


@BOTH
def test_the_sum_of_sizes_is_restored(name: str) -> None:
    delta = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = merged(name, torch.zeros_like(delta), delta, density=0.4, epsilon=0.1)
    assert float(made.abs().sum()) == pytest.approx(float(delta.abs().sum()))


@BOTH
def test_probabilities_beyond_1_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="leaves the probabilities"):
        merged(name, vector(0, 0), vector(1, 2), density=0.9, epsilon=0.2)
