"""preference/robust."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives import double, has_slopes, is_same, is_stationary, some_pairs, strengths

from truing.core.errors import InputError
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.robust import Robust, robust_loss


def flipped(pairs: PairLogps) -> PairLogps:
    return replace(
        pairs,
        chosen=pairs.rejected,
        rejected=pairs.chosen,
        ref_chosen=pairs.ref_rejected,
        ref_rejected=pairs.ref_chosen,
    )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.49])
def test_its_mean_over_flipped_labels_is_dpos_loss_on_the_true_ones(share: float) -> None:
    def noisy(pairs: PairLogps) -> torch.Tensor:
        right, wrong = (robust_loss(p, beta=0.4, label_smoothing=share) for p in (pairs, flipped(pairs)))
        return (1 - share) * right + share * wrong

    is_same(noisy, lambda pairs: dpo_loss(pairs, beta=0.4, label_smoothing=0), some_pairs())


def test_dpos_optimum_is_stationary_under_flipped_labels() -> None:
    """Bradley-Terry preferences, a third of them flipped: the optimum is still ``base * exp(reward / beta)``."""
    reward, base, share, beta = double(0.0, 1.0, -2.0, 0.3), double(0.1, 0.2, 0.3, 0.4).log(), 1 / 3, 0.5
    wins = (1 - share) * strengths(reward) + share * strengths(reward).T
    even = torch.full((4,), 0.25, dtype=torch.float64)
    best = base + reward / beta
    is_stationary(lambda p: robust_loss(p, beta=beta, label_smoothing=share), best, base, wins, even)
    with pytest.raises(AssertionError):  # which DPO does not reach
        is_stationary(lambda p: dpo_loss(p, beta=beta, label_smoothing=0), best, base, wins, even)


def test_slopes() -> None:
    pairs = some_pairs()
    pull = -0.3 * (torch.sigmoid(-0.3 * pairs.margin) + 0.2 / (1 - 2 * 0.2))
    has_slopes(lambda p: robust_loss(p, beta=0.3, label_smoothing=0.2), pull, -pull, pairs)


def test_without_noise_it_is_dpo() -> None:
    is_same(
        lambda p: robust_loss(p, beta=0.3, label_smoothing=0),
        lambda p: dpo_loss(p, beta=0.3, label_smoothing=0),
        some_pairs(),
    )


def test_half_the_labels_flipped_tell_nothing() -> None:
    with pytest.raises(InputError, match="label_smoothing"):
        Robust(label_smoothing=0.5)
