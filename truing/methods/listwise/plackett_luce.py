"""Plackett-Luce: the whole order of a list at once."""

from __future__ import annotations

import math

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod
from truing.methods.listwise._terms import masked_logsumexp

STEP, FIRST, LAST = 0.25, -38.0, 5.0
"""Of the trapezoidal rule: it leaves out a share of exp(-38) on the left, and errs by one of about exp(-9 / STEP)."""
LATE = 4.0  # exp(-exp(4)) = 2e-24: by then it has happened
EARLY = -15.0  # log(1 - exp(-e^v)) is v - e^v / 2 below it, to rounding


def plackett_luce_loss(lists: ListLogps, *, beta: float) -> torch.Tensor:
    """Minus the log-likelihood of the order of the scores. App. A.3, Rafailov et al. 2023, arXiv:2305.18290.

    ``sum_i log(1 + sum_{j worse than i} exp(s_j - s_i))`` for ``s = beta h``: reply after reply is drawn from what is
    left, each as likely as its ``exp(s)``. The gradient in ``s_k`` is the sum, over all ``i`` that are no worse than
    ``k``, of the softmax at ``k`` over ``i`` and what is worse than it, less one for ``k`` itself unless it is worst.

    Replies of one score come in any order: the likelihood is the sum over all orders that the scores leave open, which
    is Cox's exact treatment of ties (Kalbfleisch and Prentice 1973). With an exponential clock of rate ``exp(s)`` for
    each reply it is an integral over the first clock of the worse ones (DeLong et al. 1994, Biometrika 81), and is
    computed as one. So replies of one score neither push each other apart nor pull each other together, and the worst
    ones of a list are only ever what others are better than. Of a list of two it is DPO.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each list, ``(B,)``.
    """
    strength = beta * lists.ratio
    worse, tied = lists.better, lists.tied
    rest = masked_logsumexp(strength[:, None, :].expand(worse.shape), worse)
    each, many = F.softplus(rest - strength), tied.sum(2)
    if bool(((many > 1) & worse.any(2)).any()):
        together = -all_before(strength[:, None, :] - rest[:, :, None], tied)
        each = torch.where(many > 1, together / many.clamp_min(1), each)  # a share of it for each reply of the tie
    return torch.where(worse.any(2), each, 0).sum(1)


def all_before(strength: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Log of the chance that some clocks all ring before one of rate 1: ``(...)`` from log-rates ``(..., K)``.

    ``log of the integral of exp(-t) prod_j (1 - exp(-t exp(a_j)))`` over all t, with ``t = e^x`` by the trapezoidal
    rule, which is as good as exact where a function is analytic and falls off at both ends.

    Args:
        strength: the log-rates ``a``.
        inside: ``(..., K)`` bool, which of them count.
    """
    place = torch.arange(FIRST, LAST, STEP, device=strength.device, dtype=strength.dtype)
    when = strength[..., None] + place
    near = torch.log(-torch.expm1(-torch.exp(when.clamp(EARLY, LATE))))
    far = when.clamp_max(EARLY)
    rung = torch.where(when < EARLY, far - torch.exp(far) / 2, near)
    return ((rung * inside[..., None]).sum(-2) + place - torch.exp(place)).logsumexp(-1) + math.log(STEP)


@method(paper="arXiv:2305.18290", dial="beta", neutral={"max_steps": 0})
class PlackettLuce(ListMethod):
    """Makes the order of each list likely, reply after reply; ties stay open."""

    def loss(self, lists: ListLogps) -> torch.Tensor:
        return plackett_luce_loss(lists, beta=self.beta)
