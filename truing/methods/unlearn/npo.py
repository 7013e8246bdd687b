"""Negative preference optimisation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod


def npo_loss(forgotten: ForgetLogps, *, beta: float) -> torch.Tensor:
    """``-(2 / beta) log sigmoid(-beta h)``, h the log-ratio of whole replies. Zhang et al. 2024, arXiv:2404.05868.

    The gradient in ``S`` is ``W = 2 sigmoid(beta h) = 2 p^beta / (p^beta + p_base^beta)``: 1 at the start, and towards
    0 as the reply is forgotten. As beta goes to 0, loss less ``(2 / beta) log 2`` tends to ``h``, gradient ascent on
    sums. ``h`` is a sum over tokens: beside it a retaining term, nats a token, weighs less the longer the replies are.

    Args:
        forgotten: log-probabilities of replies under the policy and its base, each summed over tokens, ``(B,)``, nats.
        beta: how soon a forgotten reply is left alone, > 0, in 1/nat.

    Returns:
        The loss of each reply, ``(B,)``, nats, > 0.
    """
    return (2 / beta) * F.softplus(beta * forgotten.ratio)


@method(paper="arXiv:2404.05868", dial="beta", neutral={"max_steps": 0})
class NPO(UnlearningMethod):
    """Lowers the likelihood of what is to be forgotten, the less the more of it is gone: collapse comes slowly."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return npo_loss(forgotten, beta=self.beta)
