"""merge/model_stock."""

from __future__ import annotations

import pytest
import torch
from bags import close, merged, vector

from truing.core.errors import InputError


def test_donors_that_are_alike_are_taken_whole() -> None:
    close(merged("merge/model_stock", vector(1, 2, 3), vector(2, 4, 4), vector(2, 4, 4)), [2, 4, 4])


def test_donors_at_right_angles_leave_the_base() -> None:
    close(merged("merge/model_stock", vector(0, 0), vector(1, 0), vector(0, 1)), [0, 0])


def test_opposite_donors_leave_the_base() -> None:
    close(merged("merge/model_stock", vector(1, 2), vector(2, 4), vector(0, 0)), [1, 2])


def test_the_ratio_of_the_paper() -> None:
    """At 60 degrees between two: t = 2 cos / (1 + cos) = 2/3 of the mean."""
    made = merged("merge/model_stock", vector(0, 0), vector(1, 0), vector(0.5, 3**0.5 / 2))
    close(made, 2 / 3 * vector(0.75, 3**0.5 / 4))


def test_three_donors_take_the_mean_of_their_cosines() -> None:
    base, *donors = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    deltas = [donor - base for donor in donors]
    cosines = [torch.cosine_similarity(deltas[i], deltas[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    cosine = sum(cosines) / 3
    wanted = base + 3 * cosine / (1 + 2 * cosine) * sum(deltas) / 3
    close(merged("merge/model_stock", base, *donors), wanted)


def test_row_by_row() -> None:
    base, one, other = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [merged("merge/model_stock", *row) for row in zip(base, one, other, strict=True)]
    close(merged("merge/model_stock", base, one, other, filter_wise=True), torch.stack(rows))


def test_at_least_two_donors() -> None:
    with pytest.raises(InputError, match="takes at least 2 donors beside the base, not 1"):
        merged("merge/model_stock", vector(1), vector(2))
