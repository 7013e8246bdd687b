"""preference/apo_down."""

from __future__ import annotations

import torch
from objectives import double, has_slopes, ratios, slopes, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.apo_down import apo_down_loss


def test_slopes() -> None:
    pairs = some_pairs()
    left, apart = torch.sigmoid(0.3 * pairs.chosen_ratio), torch.sigmoid(0.3 * pairs.margin)
    pull = 0.3 * apart * (1 - apart)
    has_slopes(lambda p: apo_down_loss(p, beta=0.3), 0.3 * left * (1 - left) - pull, pull, pairs)


def test_at_the_base_only_the_rejected_reply_moves() -> None:
    base = double(-5.0, -9.0)
    pairs = PairLogps(base.clone().requires_grad_(), base.clone().requires_grad_(), base, base)
    chosen, rejected = slopes(lambda p: apo_down_loss(p, beta=0.4), pairs)
    torch.testing.assert_close(chosen, double(0.0, 0.0))
    torch.testing.assert_close(rejected, double(0.1, 0.1))


def test_once_the_margin_is_wide_the_chosen_reply_falls_too() -> None:
    base = double(-5.0)
    pairs = PairLogps(base.clone().requires_grad_(), (base - 30).requires_grad_(), base, base)
    chosen, _ = slopes(lambda p: apo_down_loss(p, beta=0.4), pairs)
    assert chosen.item() > 0.09


def test_best_is_both_far_below_the_base_and_the_rejected_one_further() -> None:
    losses = apo_down_loss(ratios(double(-1e3, 1e3, 0.0), double(-2e3, 0.0, 0.0)), beta=1.0)
    torch.testing.assert_close(losses, double(0.0, 1.0, 1.0))
