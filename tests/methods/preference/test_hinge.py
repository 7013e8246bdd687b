"""preference/hinge."""

from __future__ import annotations

import torch
from objectives import GRID, double, has_slopes, ratios, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.hinge import hinge_loss


def test_a_pair_pulls_until_its_margin_is_one_over_beta() -> None:
    """The slope in the margin is minus beta below 1 / beta = 4 nats, and nothing above."""
    chosen = torch.tensor([-9.0, -6.1, -5.9, 0.0], requires_grad=True)
    pairs = PairLogps(chosen, torch.full((4,), -10.0), torch.zeros(4), torch.zeros(4))
    hinge_loss(pairs, beta=0.25).sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.25, -0.25, 0.0, 0.0]))


def test_slopes() -> None:
    pairs = some_pairs()
    pull = -0.3 * (pairs.margin < 1 / 0.3).double()
    assert set(pull.tolist()) == {0.0, -0.3}
    has_slopes(lambda p: hinge_loss(p, beta=0.3), pull, -pull, pairs)


def test_over_a_uniform_base_it_is_slics() -> None:
    """``max(0, delta - log p_w + log p_l)`` with ``delta = 1 / beta``, in units of delta."""
    policy, base = double(-3.0, -0.5, -9.0), double(-2.0, -2.0, -2.0)
    pairs = PairLogps(policy, policy.flip(0), base, base)
    slic = (5 - policy + policy.flip(0)).clamp_min(0)
    torch.testing.assert_close(hinge_loss(pairs, beta=0.2), slic / 5)


def test_far_on_the_wrong_side_it_is_dpo_and_one_more() -> None:
    pairs = ratios(40 * GRID, torch.zeros_like(GRID))
    torch.testing.assert_close(hinge_loss(pairs, beta=9.0)[:4], 1 + dpo_loss(pairs, beta=9.0, label_smoothing=0)[:4])
