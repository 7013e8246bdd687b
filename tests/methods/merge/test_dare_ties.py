"""merge/dare_ties; its masks are in test_random_masks.py."""

from __future__ import annotations

from bags import close, merged, vector


def test_full_density_drops_nothing() -> None:
    models, weight = (vector(1, 2, 3), vector(2, 0, 3.5), vector(1, 5, 4)), (0.3, 2.0)
    wanted = merged("merge/ties", *models, weight=weight, rescale="none", normalize=False, density=1.0)
    close(merged("merge/dare_ties", *models, density=1.0, weight=weight), wanted)
