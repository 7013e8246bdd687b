"""preference/sppo_hard."""

from __future__ import annotations

import torch
from objectives import double, has_slopes, some_pairs, strengths

from truing.methods.preference._family import PairLogps
from truing.methods.preference.ipo import ipo_loss
from truing.methods.preference.sppo_hard import sppo_hard_loss


def test_each_log_ratio_goes_to_the_papers_target() -> None:
    """Eq. 4.7 over every ordered pair: ``h = eta (P(y beats the sampler) - 1/2)``; a log-ratio is free here."""
    beta, sampler = 0.4, double(0.2, 0.5, 0.3)
    wins = strengths(double(0.0, 1.5, -0.5))
    best = ((wins @ sampler - 0.5) / beta).requires_grad_()
    i, j = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    zero = torch.zeros(9, dtype=torch.float64)
    losses = sppo_hard_loss(PairLogps(best[i], best[j], zero, zero), beta=beta)
    (gradient,) = torch.autograd.grad((sampler[i] * sampler[j] * wins[i, j] * losses).sum(), best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_slopes() -> None:
    """Each reply's slope is its own: the other's log-ratio does not enter."""
    pairs = some_pairs()
    chosen, rejected = 2 * (pairs.chosen_ratio - 2.5), 2 * (pairs.rejected_ratio + 2.5)
    has_slopes(lambda p: sppo_hard_loss(p, beta=0.2), chosen, rejected, pairs)


def test_where_the_log_ratios_are_opposite_it_is_half_of_ipos_loss_at_half_its_beta() -> None:
    ratio, zero = double(-3.0, 0.2, 2.5), torch.zeros(3, dtype=torch.float64)
    pairs = PairLogps(ratio, -ratio, zero, zero)
    torch.testing.assert_close(sppo_hard_loss(pairs, beta=0.2), ipo_loss(pairs, beta=0.1) / 2)
