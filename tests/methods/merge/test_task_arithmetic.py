"""merge/task_arithmetic."""

from __future__ import annotations

import pytest
from bags import close, merged, vector

from truing.core.errors import InputError

BASE, ONE, OTHER = vector(1, 2, 3), vector(2, 0, 3), vector(1, 5, 4)


def test_weighted_differences_are_added() -> None:
    """Differences (1, -2, 0) and (0, 3, 1), weights 2 and 0.5, scaled by 3."""
    made = merged("merge/task_arithmetic", BASE, ONE, OTHER, weight=(2.0, 0.5), lambda_=3.0)
    close(made, [1 + 3 * 2, 2 + 3 * (-4 + 1.5), 3 + 3 * 0.5])


def test_normalised_is_the_mean_by_weight() -> None:
    close(merged("merge/task_arithmetic", BASE, ONE, OTHER, weight=(3.0, 1.0), normalize=True), [1.75, 1.25, 3.25])


def test_weights_that_add_up_to_nothing_divide_by_one() -> None:
    close(merged("merge/task_arithmetic", BASE, ONE, OTHER, weight=(1.0, -1.0), normalize=True), [2, -3, 2])


def test_as_many_weights_as_donors() -> None:
    with pytest.raises(InputError, match="weight has 3 values, and there are 2 donors"):
        merged("merge/task_arithmetic", BASE, ONE, OTHER, weight=(1.0, 1.0, 1.0))
