"""merge/dare_linear; its masks are in test_random_masks.py."""

from __future__ import annotations

from bags import close, merged, vector


def test_full_density_drops_nothing() -> None:
    models, weight = (vector(1, 2, 3), vector(2, 0, 3.5), vector(1, 5, 4)), (0.3, 2.0)
    wanted = merged("merge/task_arithmetic", *models, weight=weight)
    close(merged("merge/dare_linear", *models, density=1.0, weight=weight), wanted)
