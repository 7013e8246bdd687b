"""preference/rpo."""

from __future__ import annotations

import pytest
import torch
from objectives import double, has_slopes, is_same, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.rpo import rpo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    pull = 0.3 * torch.sigmoid(-0.3 * pairs.margin)
    has_slopes(lambda p: rpo_loss(p, beta=0.3, rpo_alpha=0.7), -pull - 0.7 / pairs.chosen_tokens, pull, pairs)


def test_without_imitation_it_is_dpo() -> None:
    is_same(
        lambda p: rpo_loss(p, beta=0.3, rpo_alpha=0),
        lambda p: dpo_loss(p, beta=0.3, label_smoothing=0),
        some_pairs(),
    )


def trained(eta: float) -> torch.Tensor:
    """Three arms with shared features, one pair, 1,000 steps of descent; of one token, alpha is eta beta."""
    features, beta = double(1, 0, 0.9, 0.4, 0.6, -2).view(3, 2), 0.1
    base, one = torch.zeros(3, dtype=torch.float64).log_softmax(0), torch.tensor([1])
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([weights], lr=1.0)
    for _ in range(1000):
        policy = (features @ weights).log_softmax(0)
        pairs = PairLogps(policy[:1], policy[1:2], base[:1], base[1:2], one, one)
        descent.zero_grad()
        rpo_loss(pairs, beta=beta, rpo_alpha=eta * beta).sum().backward()
        descent.step()
    return (features @ weights).softmax(0).detach()


def test_imitation_keeps_mass_from_an_arm_that_was_never_seen() -> None:
    """Over-optimisation outside the data. With imitation the chosen arm grows, the more the larger eta."""
    shares = {eta: trained(eta) for eta in (0.0, 2.0, 10.0)}
    assert shares[0.0][2] > 0.99
    assert 1 / 3 < shares[2.0][0] < shares[10.0][0]
    torch.testing.assert_close(shares[2.0], double(0.861, 0.083, 0.056), rtol=0, atol=0.01)
    torch.testing.assert_close(shares[10.0], double(0.968, 0.021, 0.011), rtol=0, atol=0.01)


def test_the_adversarial_reward_collapses_to_imitation() -> None:
    """``beta log Z - E_base[r] = -beta E_base[log(pi_r / ref)]`` for the optimum ``pi_r`` of any reward."""
    source = torch.Generator().manual_seed(3)
    reward, ref, chosen = torch.randn(3, 6, generator=source, dtype=torch.float64)
    ref, chosen, beta = ref.log_softmax(0), chosen.softmax(0), 0.3
    best = (ref + reward / beta).log_softmax(0)
    left = beta * (ref + reward / beta).logsumexp(0) - chosen @ reward
    assert left.item() == pytest.approx(-beta * (chosen @ (best - ref)).item(), abs=1e-12)
