"""Negative preference optimisation without a base, by the token."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Gt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod


def simnpo_loss(forgotten: ForgetLogps, *, beta: float, gamma: float) -> torch.Tensor:
    """``-(2 / beta) log sigmoid(-beta S / n - gamma)``. Fan et al. 2024, arXiv:2410.07163.

    The gradient in ``S`` is ``(2 / n) sigmoid(beta S / n + gamma)``: short and likely replies are pushed most, and at
    the start not all alike, as they are under NPO. ``S / n`` is a mean over tokens, so beta is about a length larger
    than NPO's, and a retaining term is on the same scale.

    Args:
        forgotten: log-probabilities of replies, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: how soon an unlikely reply is left alone, > 0, in tokens a nat.
        gamma: a larger one pushes for longer; the paper's margin, in the sigmoid's unit.

    Returns:
        The loss of each reply, ``(B,)``, nats a token, > 0.
    """
    return (2 / beta) * F.softplus(beta * forgotten.per_token + gamma)


@method(paper="arXiv:2410.07163", dial="beta", neutral={"max_steps": 0})
class SimNPO(UnlearningMethod):
    """Lowers the likelihood a token of what is to be forgotten until it is unlikely; needs no reference pass."""

    uses_reference: ClassVar[bool] = False
    beta: Annotated[float, Gt(0)] = 2.5
    gamma: float = 0.0

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return simnpo_loss(forgotten, beta=self.beta, gamma=self.gamma)
