"""preference/ld_dpo."""

from __future__ import annotations

import torch
from objectives import double, from_tokens, ratios

from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.ld_dpo import ld_dpo_loss

POLICY = -torch.rand(14, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BASE = -torch.rand(14, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
COUNTS = [5, 2, 3, 4]  # the shorter replies have 2 and 3 tokens


def test_every_token_counts_as_the_paper_says() -> None:
    """The sum written out: three tokens of the first chosen reply and one of the second rejected one count for 0.3."""
    h = POLICY - BASE
    margins = [
        h[0:2].sum() + 0.3 * h[2:5].sum() - h[5:7].sum(),
        h[7:10].sum() - h[10:13].sum() - 0.3 * h[13],
    ]
    wanted = -torch.log(torch.sigmoid(0.7 * torch.stack(margins)))
    torch.testing.assert_close(ld_dpo_loss(from_tokens(POLICY, BASE, COUNTS), beta=0.7, ld_alpha=0.3), wanted)


def test_slopes() -> None:
    leaf = POLICY.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ld_dpo_loss(from_tokens(leaf, BASE, COUNTS), beta=0.7, ld_alpha=0.3).sum(), leaf)
    weight = double(1, 1, 0.3, 0.3, 0.3, -1, -1, 1, 1, 1, -1, -1, -1, -0.3)
    sums = (weight * (POLICY - BASE)).split([7, 7])
    pull = torch.cat([0.7 * torch.sigmoid(-0.7 * part.sum()).expand(7) for part in sums])
    torch.testing.assert_close(slope, -pull * weight)


def test_at_full_weight_it_is_dpo() -> None:
    pairs = from_tokens(POLICY, BASE, COUNTS)
    torch.testing.assert_close(ld_dpo_loss(pairs, beta=0.7, ld_alpha=1.0), dpo_loss(pairs, beta=0.7, label_smoothing=0))


def test_at_no_weight_it_is_dpo_of_replies_cut_to_one_length() -> None:
    kept = [0, 1, 5, 6, 7, 8, 9, 10, 11, 12]
    cut = from_tokens(POLICY[kept], BASE[kept], [2, 2, 3, 3])
    torch.testing.assert_close(
        ld_dpo_loss(from_tokens(POLICY, BASE, COUNTS), beta=0.7, ld_alpha=0.0),
        dpo_loss(cut, beta=0.7, label_smoothing=0),
    )


def test_of_equal_lengths_the_weight_is_of_no_matter() -> None:
    pairs = from_tokens(POLICY, BASE, [3, 3, 4, 4])
    losses = [ld_dpo_loss(pairs, beta=0.7, ld_alpha=alpha) for alpha in (0.0, 0.5)]
    torch.testing.assert_close(*losses)


def test_without_tokens_it_refuses() -> None:
    import pytest

    with pytest.raises(ValueError, match="each"):
        ld_dpo_loss(ratios(double(1.0), double(0.0)), beta=1, ld_alpha=0.5)
