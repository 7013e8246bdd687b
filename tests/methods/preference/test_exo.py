"""preference/exo."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import double, has_slopes, is_stationary, ratios, some_pairs

from truing.core.errors import InputError
from truing.methods.preference.exo import EXO, exo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    q = torch.sigmoid(0.3 * pairs.margin.detach())
    pull = 0.3 * q * (1 - q) * (0.3 * pairs.margin - math.log(0.95 / 0.05))
    has_slopes(lambda p: exo_loss(p, beta=0.3, label_smoothing=0.05), pull, -pull, pairs)


def test_it_is_the_kl_of_two_coins_and_vanishes_at_the_smoothed_label() -> None:
    margin = double(-2.0, 0.0, 3.0, math.log(9))
    loss = exo_loss(ratios(margin, torch.zeros(4, dtype=torch.float64)), beta=1.0, label_smoothing=0.1)
    for told, q in zip(loss.tolist(), torch.sigmoid(margin).tolist(), strict=True):
        assert told == pytest.approx(q * math.log(q / 0.9) + (1 - q) * math.log((1 - q) / 0.1), abs=1e-12)
    assert loss[3].item() == pytest.approx(0, abs=1e-12)


def test_where_labels_are_as_sure_as_it_says_its_optimum_is_stationary() -> None:
    """Two replies of which one is preferred with odds of 9 : 1 by every label: odds of 9 to the power of 1 / beta."""
    base, beta = double(0.7, 0.3).log(), 0.5
    wins = double(0.5, 1.0, 0.0, 0.5).view(2, 2)
    best = base + double(math.log(9), 0.0) / beta
    pairs = double(0.5, 0.5)

    def only_the_pair(p):  # a reply against itself says nothing
        return torch.where(p.margin == 0, 0.0, exo_loss(p, beta=beta, label_smoothing=0.1))

    is_stationary(only_the_pair, best, base, wins, pairs)


def test_a_label_cannot_be_certain() -> None:
    with pytest.raises(InputError, match="label_smoothing"):
        EXO(label_smoothing=0.0)
