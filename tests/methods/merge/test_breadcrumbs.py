"""merge/breadcrumbs; what it drops is in test_outliers.py."""

from __future__ import annotations

from bags import close, merged, vector


def test_two_donors() -> None:
    """Where signs differ, both are added."""
    models = (vector(0, 0, 0, 0), vector(1, 2, 3, 9), vector(-4, 1, 2, 8))
    close(merged("merge/breadcrumbs", *models, density=1.0), [-3, 3, 5, 17])
