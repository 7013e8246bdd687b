"""merge/della_linear; its masks are in test_ranked_masks.py."""

from __future__ import annotations

from bags import close, merged, vector


def test_full_density_is_a_sum() -> None:
    close(merged("merge/della_linear", vector(0, 0), vector(1, 2), vector(3, -5), density=1.0), [4, -3])
