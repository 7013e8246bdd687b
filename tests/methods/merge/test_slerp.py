"""merge/slerp."""

from __future__ import annotations

import math

import pytest
import torch
from bags import close, merged, vector


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_on_the_circle_the_angle_is_shared(t: float) -> None:
    close(
        merged("merge/slerp", vector(1, 0), vector(0, 1), t=t), [math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)]
    )


def test_lengths_are_those_of_the_vectors() -> None:
    """The angle is of the directions; the vectors themselves are added up: 60 degrees, a third of the way."""
    made = merged("merge/slerp", vector(2, 0), vector(2.5, 2.5 * math.sqrt(3)), t=1 / 3)
    weights = [math.sin(math.radians(a)) / math.sin(math.radians(60)) for a in (40, 20)]
    close(made, [weights[0] * 2 + weights[1] * 2.5, weights[1] * 2.5 * math.sqrt(3)])


@pytest.mark.parametrize("angle", [0.0, 0.02, 0.0310, math.pi])
def test_nearly_parallel_vectors_are_mixed_on_a_line(angle: float) -> None:
    donor = vector(3 * math.cos(angle), 3 * math.sin(angle))
    close(merged("merge/slerp", vector(1, 0), donor, t=0.3), 0.7 * vector(1, 0) + 0.3 * donor)


def test_a_tensor_of_zeros_is_at_right_angles_to_all() -> None:
    close(merged("merge/slerp", vector(0, 0), vector(2, 1), t=0.5), math.sqrt(0.5) * vector(2, 1))


def test_stretches_change_nothing() -> None:
    """Longer than a stretch, against the formula on the whole."""
    base, donor = torch.randn(2, 600_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.acos((base / base.norm()) @ (donor / donor.norm()))
    whole = (torch.sin(0.6 * angle) * base + torch.sin(0.4 * angle) * donor) / torch.sin(angle)
    close(merged("merge/slerp", base, donor, t=0.4), whole, 1e-9)
