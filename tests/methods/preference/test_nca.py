"""preference/nca."""

from __future__ import annotations

import math

import torch
from objectives import double, has_slopes, is_stationary, some_pairs, strengths

from truing.methods.preference.nca import nca_loss


def test_slopes() -> None:
    pairs = some_pairs()
    left, right = torch.sigmoid(0.3 * pairs.chosen_ratio), torch.sigmoid(0.3 * pairs.rejected_ratio)
    has_slopes(lambda p: nca_loss(p, beta=0.3), 0.3 * (1.5 * left - 1), 0.15 * right, pairs)


def test_the_population_optimum_is_twice_the_chance_to_beat_the_base() -> None:
    """For replies drawn from the base, ``pi / base = 2 P(y beats a draw)`` at beta 1, which sums to 1 as it stands.

    The optimum of ``P log sigmoid(r) + 1/2 log sigmoid(-r)`` for each reply; any preferences, a circle among them.
    """
    circle = double(0.5, 0.9, 0.3, 0.1, 0.5, 0.8, 0.7, 0.2, 0.5).view(3, 3)
    for wins in (circle, strengths(double(0.0, 2.0, -1.0))):
        base = double(0.2, 0.5, 0.3)
        best = 2 * base * (wins @ base)
        torch.testing.assert_close(best.sum(), double(1.0)[0])
        is_stationary(lambda p: nca_loss(p, beta=1.0), best.log(), base.log(), wins, base)


def test_a_chosen_reply_rests_at_a_reward_of_log_2() -> None:
    pairs = some_pairs()
    pairs = type(pairs)(pairs.ref_chosen + math.log(2) / 0.3, pairs.rejected, pairs.ref_chosen, pairs.ref_rejected)
    chosen = pairs.chosen.requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(nca_loss(pairs, beta=0.3).sum(), chosen)[0], torch.zeros_like(chosen)
    )
