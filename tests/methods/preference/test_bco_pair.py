"""preference/bco_pair."""

from __future__ import annotations

import torch
from objectives import double, has_slopes, is_stationary, some_pairs

from truing.methods.preference.bco_pair import bco_pair_loss
from truing.methods.preference.dpo import dpo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    left, right = torch.sigmoid(-0.3 * pairs.chosen_ratio), torch.sigmoid(0.3 * pairs.rejected_ratio)
    has_slopes(lambda p: bco_pair_loss(p, beta=0.3), -0.3 * left, 0.3 * right, pairs)


def test_it_exceeds_dpos_loss_by_what_the_theorem_says() -> None:
    """``log(1 + (e^-r_w + e^r_l) / (1 + e^-(r_w - r_l)))``."""
    pairs, beta = some_pairs(), 0.4
    left, right = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    gap = torch.log1p((torch.exp(-left) + torch.exp(right)) / (1 + torch.exp(right - left)))
    torch.testing.assert_close(
        bco_pair_loss(pairs, beta=beta) - dpo_loss(pairs, beta=beta, label_smoothing=0), gap, rtol=0, atol=1e-10
    )


def test_the_population_optimum_is_bayes() -> None:
    """Odds of being chosen rather than rejected, ``P / (1 - P)``, where these with the base happen to sum to 1."""
    wins = double(0.5, 0.8, 0.2, 0.5).view(2, 2)
    even = double(0.5, 0.5)
    odds = (wins @ even) / (1 - wins @ even)
    share = (1 - odds[1]) / (odds[0] - odds[1])  # the base for which base * odds is a distribution
    base = torch.stack([share, 1 - share])
    is_stationary(lambda p: bco_pair_loss(p, beta=1.0), (base * odds).log(), base.log(), wins, even)
