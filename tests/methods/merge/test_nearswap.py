"""merge/nearswap."""

from __future__ import annotations

import pytest
from bags import close, merged, vector

from truing.core.errors import InputError


def test_a_number_moves_by_t_and_no_farther_than_the_donor() -> None:
    close(merged("merge/nearswap", vector(0, 0, 0, 5), vector(3, -3, 0.5, 5), t=1.0), [1, -1, 0.5, 5])


def test_one_donor_only() -> None:
    with pytest.raises(InputError, match="takes 1 donor beside the base, not 2"):
        merged("merge/nearswap", vector(0), vector(1), vector(2))
