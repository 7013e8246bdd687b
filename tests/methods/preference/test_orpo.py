"""preference/orpo."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import double, has_slopes, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.orpo import orpo_loss
from truing.methods.preference.sft_chosen import sft_chosen_loss


def one_token(chosen: float, rejected: float) -> PairLogps:
    """Replies of one token with these probabilities, and no base."""
    nan, one = double(math.nan), torch.tensor([1])
    return PairLogps(double(chosen).log(), double(rejected).log(), nan, nan, one, one)


def test_slopes() -> None:
    pairs = some_pairs()
    left, right = pairs.chosen_tokens, pairs.rejected_tokens
    p, q = torch.exp(pairs.chosen.detach() / left), torch.exp(pairs.rejected.detach() / right)
    lost = 1 - p / (1 - p) / (p / (1 - p) + q / (1 - q))
    has_slopes(
        lambda x: orpo_loss(x, beta=0.3), (-1 - 0.3 * lost / (1 - p)) / left, 0.3 * lost / (1 - q) / right, pairs
    )


def test_probabilities_of_three_and_two_tenths_by_hand() -> None:
    """Odds of 3/7 and 1/4, whose ratio is 12/7: the chosen one wins 12 times of 19."""
    assert orpo_loss(one_token(0.3, 0.2), beta=1.0).item() == pytest.approx(
        -math.log(0.3) - math.log(12 / 19), abs=1e-12
    )


def test_without_the_odds_it_is_imitation() -> None:
    pairs = some_pairs()
    torch.testing.assert_close(orpo_loss(pairs, beta=0), sft_chosen_loss(pairs))


@pytest.mark.parametrize(("chosen", "rejected"), [(0.3, 0.2), (0.01, 0.9), (1 - 1e-7, 1e-30), (0.6, 0.6)])
def test_it_is_bounded_by_asft(chosen: float, rejected: float) -> None:
    """``-log sigmoid(a - b) = -log sigmoid(a) - log sigmoid(-b) + log(p (1 - q) + q (1 - p))``, and that is below 0."""
    whole = orpo_loss(one_token(chosen, rejected), beta=1.0).item()
    mixed = chosen * (1 - rejected) + rejected * (1 - chosen)
    assert whole == pytest.approx(-2 * math.log(chosen) - math.log1p(-rejected) + math.log(mixed), abs=1e-8)
