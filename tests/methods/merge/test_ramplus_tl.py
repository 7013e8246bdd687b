"""merge/ramplus_tl."""

from __future__ import annotations

import pytest
from bags import close, merged, vector


@pytest.mark.parametrize(("alpha", "one", "other"), [(0.2, 0.2, 0.2), (10.0, 0.5, 1.0), (0.7, 0.5, 0.7)])
def test_own_changes_are_reinforced_by_the_ratio_of_shared_ones(alpha: float, one: float, other: float) -> None:
    """The first donor changed four numbers alone and two with the second, which changed two alone: 2/4 and 2/2."""
    base = vector(*[0] * 8)
    first, second = vector(1, 2, 3, 4, 5, 6, 0, 0), vector(0, 0, 0, 0, 1, 2, 7, 8)
    made = merged("merge/ramplus_tl", base, first, second, r=0.5, alpha=alpha)
    lone, lonely = 1 + 0.5 * one, 1 + 0.5 * other
    close(made, [lone, 2 * lone, 3 * lone, 4 * lone, 3, 4, 7 * lonely, 8 * lonely])


def test_without_strength_it_is_ram() -> None:
    donors = vector(1, 0, 3, 1e-7), vector(2, 5, 0, 0)
    base = vector(0, 0, 0, 0)
    close(merged("merge/ramplus_tl", base, *donors, r=0.0), merged("merge/ram", base, *donors))
