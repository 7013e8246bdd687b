"""preference/apo_zero."""

from __future__ import annotations

import torch
from objectives import double, has_slopes, ratios, some_pairs

from truing.methods.preference.apo_down import apo_down_loss
from truing.methods.preference.apo_zero import apo_zero_loss
from truing.methods.preference.dpo import dpo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    left, right = torch.sigmoid(0.3 * pairs.chosen_ratio), torch.sigmoid(0.3 * pairs.rejected_ratio)
    has_slopes(lambda p: apo_zero_loss(p, beta=0.3), -0.3 * left * (1 - left), 0.3 * right * (1 - right), pairs)


def test_at_a_small_beta_it_pulls_half_as_much_as_dpo() -> None:
    """Both are linear in the margin there: ``1 - beta m / 4`` and ``log 2 - beta m / 2``."""
    pairs, beta = ratios(double(3.0, -1.0), double(-2.0, 0.5)), 1e-5
    ours, theirs = (
        apo_zero_loss(pairs, beta=beta) - 1,
        dpo_loss(pairs, beta=beta, label_smoothing=0) - torch.tensor(2.0).double().log(),
    )
    torch.testing.assert_close(ours / beta, theirs / beta / 2, rtol=1e-4, atol=1e-4)


def test_it_is_between_0_and_2_and_1_at_the_base() -> None:
    far = double(1e4, 0.0, -1e4)
    torch.testing.assert_close(apo_zero_loss(ratios(far, -far), beta=1.0), double(0.0, 1.0, 2.0))


def test_where_the_chosen_reply_alone_moves_it_is_the_mirror_of_apo_down() -> None:
    """At a rejected reply still at its base: one falls as the chosen rises, the other does not change."""
    pairs = ratios(double(-2.0, 0.0, 5.0), double(0.0, 0.0, 0.0))
    up, down = apo_zero_loss(pairs, beta=0.7), apo_down_loss(pairs, beta=0.7)
    torch.testing.assert_close(down, torch.ones_like(down))
    assert (up[:-1] > up[1:]).all()
