"""preference/cpo."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from objectives import double, has_slopes, is_same, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.cpo import cpo_loss
from truing.methods.preference.dpo import dpo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    pull = 0.3 * torch.sigmoid(-0.3 * (pairs.chosen - pairs.rejected))
    has_slopes(
        lambda p: cpo_loss(p, beta=0.3, cpo_alpha=0.7, label_smoothing=0),
        -pull - 0.7 / pairs.chosen_tokens, pull, pairs,
    )  # fmt: skip


def test_without_imitation_it_is_dpo_over_a_uniform_base() -> None:
    base = torch.full((5,), -9.0, dtype=torch.float64)
    is_same(
        lambda p: cpo_loss(p, beta=0.3, cpo_alpha=0, label_smoothing=0.2),
        lambda p: dpo_loss(p, beta=0.3, label_smoothing=0.2),
        replace(some_pairs(), ref_chosen=base, ref_rejected=base),
    )


def test_two_probabilities_by_hand() -> None:
    """3/10 over 2/10: the odds of the pair are 3 : 2, and the imitation is of 3/10."""
    nan, one = double(math.nan), torch.tensor([1])
    pairs = PairLogps(double(0.3).log(), double(0.2).log(), nan, nan, one, one)
    loss = cpo_loss(pairs, beta=1.0, cpo_alpha=0.5, label_smoothing=0)
    assert loss.item() == pytest.approx(-math.log(3 / 5) - 0.5 * math.log(0.3), abs=1e-12)
