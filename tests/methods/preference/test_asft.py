"""preference/asft."""

from __future__ import annotations

import math

import pytest
import torch
from objectives import double, has_slopes, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.asft import asft_loss
from truing.methods.preference.sft_chosen import sft_chosen_loss


def test_slopes() -> None:
    """Constant on the chosen reply; on the rejected one the odds, which fade as it becomes unlikely."""
    pairs = some_pairs()
    q = torch.exp(pairs.rejected.detach() / pairs.rejected_tokens)
    has_slopes(
        lambda p: asft_loss(p, beta=1.0, asft_lambda=0.7),
        -1.7 / pairs.chosen_tokens.double(), 0.7 * q / (1 - q) / pairs.rejected_tokens, pairs,
    )  # fmt: skip


@pytest.mark.parametrize("p", [1e-30, 1e-3, 0.4, 1 - 1e-4, 1 - 1e-7])
def test_untempered_it_is_the_two_likelihoods(p: float) -> None:
    """``-(1 + lambda) log p_w - lambda log(1 - p_l)``."""
    nan, one = double(math.nan), torch.tensor([1])
    sum_of = double(p).log()
    loss = asft_loss(PairLogps(sum_of, sum_of, nan, nan, one, one), beta=1.0, asft_lambda=0.5)
    assert loss.item() == pytest.approx(-1.5 * math.log(p) - 0.5 * math.log1p(-p), rel=1e-9, abs=1e-9)


def test_without_alignment_it_is_imitation() -> None:
    pairs = some_pairs()
    torch.testing.assert_close(asft_loss(pairs, beta=2.0, asft_lambda=0), sft_chosen_loss(pairs))


def test_a_whole_replys_probability_would_not_do() -> None:
    """Why the mean is taken: of a sentence of 40 tokens, ``1 - p`` is 1 and nothing pulls the rejected reply down."""
    total, forty, one = double(-80.0).requires_grad_(), torch.tensor([40]), torch.tensor([1])
    slopes = []
    for length in (forty, one):
        pairs = PairLogps(double(-1.0), total, double(0.0), double(0.0), one, length)
        slopes.append(torch.autograd.grad(asft_loss(pairs, beta=1.0, asft_lambda=1.0).sum(), total)[0].item())
    assert slopes[0] > 1e-3
    assert slopes[1] < 1e-10


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_tempered_odds_by_hand(beta: float) -> None:
    """``sigmoid(beta odds) = p^beta / (p^beta + (1 - p)^beta)``: 3 of 10 chosen, 2 of 10 rejected."""
    nan, one = double(math.nan), torch.tensor([1])
    pairs = PairLogps(double(0.3).log(), double(0.2).log(), nan, nan, one, one)
    right, wrong = (p**beta / (p**beta + (1 - p) ** beta) for p in (0.3, 0.2))
    wanted = -math.log(0.3) - 0.7 * (math.log(right) + math.log(1 - wrong))
    assert asft_loss(pairs, beta=beta, asft_lambda=0.7).item() == pytest.approx(wanted, abs=1e-12)
