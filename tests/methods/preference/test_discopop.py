"""preference/discopop."""

from __future__ import annotations

import torch
from objectives import GRID, double, has_slopes, ratios, some_pairs

from truing.methods.preference.discopop import discopop_loss
from truing.methods.preference.dpo import dpo_loss


def test_slopes() -> None:
    pairs, beta, tau = some_pairs(), 0.3, 0.2
    x = beta * pairs.margin.detach()
    s, smooth, sharp = torch.sigmoid(x / tau), torch.log1p(torch.exp(-x)), torch.exp(-x)
    pull = beta * (s * (1 - s) * (sharp - smooth) / tau - (1 - s) * torch.sigmoid(-x) - s * sharp)
    has_slopes(lambda p: discopop_loss(p, beta=beta, discopop_tau=tau), pull, -pull, pairs)


def test_the_local_optima_that_the_paper_reports_are_there() -> None:
    """With beta and tau of 0.05: a minimum at a margin of -2.3714 nats, and a maximum at 1.44012."""
    margin = double(-2.3714, 1.44012).requires_grad_()
    losses = discopop_loss(ratios(margin, torch.zeros(2, dtype=torch.float64)), beta=0.05, discopop_tau=0.05)
    (slope,) = torch.autograd.grad(losses.sum(), margin, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), margin)
    torch.testing.assert_close(slope.detach(), torch.zeros_like(slope), rtol=0, atol=1e-6)
    assert bend[0] > 0 > bend[1]


def test_as_tau_goes_to_0_it_is_dpo_below_a_margin_of_0_and_exponential_above() -> None:
    zero = torch.zeros_like(GRID)
    losses = discopop_loss(ratios(GRID, zero), beta=2.0, discopop_tau=1e-5)
    torch.testing.assert_close(losses, dpo_loss(ratios(GRID, zero), beta=2.0, label_smoothing=0))
    torch.testing.assert_close(discopop_loss(ratios(-GRID, zero), beta=2.0, discopop_tau=1e-5), torch.exp(2.0 * GRID))
