"""merge/karcher."""

from __future__ import annotations

import math

import pytest
import torch
from bags import close, merged, vector


def test_of_two_it_is_the_middle_of_the_arc() -> None:
    base, donor = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.acos((base / base.norm()).flatten() @ (donor / donor.norm()).flatten())
    middle = (base / base.norm() + donor / donor.norm()) * (angle / 2).sin() / angle.sin()
    close(merged("merge/karcher", base, donor), middle * (base.norm() + donor.norm()) / 2, 1e-9)


def test_on_a_circle_angles_are_averaged() -> None:
    """Directions at 0, 30 and 90 degrees with weights 1, 2 and 1: the mean angle is 37.5."""
    points = [vector(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (0, 30, 90)]
    made = merged("merge/karcher", *points, weights=(1.0, 2.0, 1.0), max_iter=50, tol=1e-12)
    close(made, [math.cos(math.radians(37.5)), math.sin(math.radians(37.5))], 1e-9)


def test_the_tangents_at_the_mean_cancel() -> None:
    points = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = merged("merge/karcher", *points, weights=(1.0,) * 4, max_iter=100, tol=1e-13)
    at, units = made / made.norm(), points / points.norm(dim=1, keepdim=True)
    angles = (units @ at).acos()
    pull = ((angles / angles.sin())[:, None] * (units - (units @ at)[:, None] * at)).sum(0)
    assert float(pull.norm()) < 1e-9
    assert float(made.norm()) == pytest.approx(float(points.norm(dim=1).mean()))


def test_a_model_of_zeros_only_shortens() -> None:
    close(merged("merge/karcher", vector(3, 4), vector(0, 0)), [1.5, 2])
