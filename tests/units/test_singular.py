"""Alignment of singular vectors."""

from __future__ import annotations

import pytest
import torch
from networks import perceptron, perceptron_spec

from truing.core.rng import Rng
from truing.units.permutations import apply, random
from truing.units.singular import singular_alignment


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_it_is_1_for_a_network_and_itself_and_less_for_its_reordered_copy(gamma: float) -> None:
    one = perceptron(1, wide=20)
    spec = perceptron_spec(one)
    copy = apply(spec, random(spec, Rng(0)), one)
    assert singular_alignment(one, one, gamma=gamma) == pytest.approx(1)
    assert singular_alignment(one, copy, gamma=gamma) < 0.5
    flipped = {name: -tensor for name, tensor in one.items()}
    assert singular_alignment(one, flipped, gamma=gamma) == pytest.approx(-1)


def test_by_hand_on_a_rotation() -> None:
    """Distinct values 2 and 1 on the axes; the other's outputs are turned: each pair meets at the angle's cosine."""
    angle = torch.tensor(0.4, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    own = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert singular_alignment({"w": own}, {"w": turn @ own}, gamma=0.0) == pytest.approx(float(angle.cos()))


def test_small_singular_values_are_left_out_above_gamma() -> None:
    """Two matrices that agree on the great direction and disagree in sign on the small one."""
    left, right = torch.diag(torch.tensor([1.0, 0.1])), torch.diag(torch.tensor([1.0, -0.1]))
    assert singular_alignment({"w": left}, {"w": right}, gamma=0.3) == pytest.approx(1)
    assert singular_alignment({"w": left}, {"w": right}, gamma=0.0) == pytest.approx(0)
    assert singular_alignment({"b": torch.ones(3)}, {"b": torch.ones(3)}, gamma=0.0) == 0


def test_the_inner_product_is_the_sum_over_pairs_of_singular_vectors() -> None:
    """The identity that the measure is built on, with the values put back in."""
    one, two = perceptron(1)["2.weight"], perceptron(2)["2.weight"]
    (u, s, v), (x, t, y) = torch.linalg.svd(one), torch.linalg.svd(two)
    total = (s[:, None] * t * (u.T @ x) * (v @ y.T)).sum()
    torch.testing.assert_close(total, (one * two).sum())
