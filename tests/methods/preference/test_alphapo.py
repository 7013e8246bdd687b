"""preference/alphapo."""

from __future__ import annotations

import torch
from objectives import has_slopes, is_same, some_pairs

from truing.methods.preference.alphapo import alphapo_loss
from truing.methods.preference.simpo import simpo_loss


def test_slopes() -> None:
    """Each side's pull is scaled by its own mean likelihood to the power of minus alpha."""
    pairs, alpha = some_pairs(), 0.4
    likely = [
        torch.exp(total.detach() / count)
        for total, count in ((pairs.chosen, pairs.chosen_tokens), (pairs.rejected, pairs.rejected_tokens))
    ]
    reward = [(1 - p**-alpha) / alpha for p in likely]
    pull = 2.0 * torch.sigmoid(0.7 - 2.0 * (reward[0] - reward[1]))
    has_slopes(
        lambda p: alphapo_loss(p, beta=2.0, simpo_gamma=0.7, alpha=alpha),
        -pull * likely[0] ** -alpha / pairs.chosen_tokens, pull * likely[1] ** -alpha / pairs.rejected_tokens, pairs,
    )  # fmt: skip


def test_without_a_bend_it_is_simpo() -> None:
    for alpha in (0.0, 1e-12):
        is_same(
            lambda p, alpha=alpha: alphapo_loss(p, beta=2.0, simpo_gamma=0.5, alpha=alpha),
            lambda p: simpo_loss(p, beta=2.0, simpo_gamma=0.5, label_smoothing=0),
            some_pairs(),
        )


def test_at_alpha_minus_one_rewards_are_the_likelihoods_themselves() -> None:
    pairs = some_pairs()
    likely = [torch.exp(pairs.chosen / pairs.chosen_tokens), torch.exp(pairs.rejected / pairs.rejected_tokens)]
    wanted = -torch.log(torch.sigmoid(3.0 * (likely[0] - likely[1])))
    torch.testing.assert_close(alphapo_loss(pairs, beta=3.0, simpo_gamma=0, alpha=-1.0), wanted)
