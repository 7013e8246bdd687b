"""DiscoPOP: the loss that a language model's search found."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def discopop_loss(pairs: PairLogps, *, beta: float, discopop_tau: float) -> torch.Tensor:
    """Logistic below a margin of 0, exponential above. Eq. 5, Lu et al. 2024, arXiv:2406.08414 ("LRML").

    ``(1 - s) softplus(-x) + s exp(-x)``, ``x = beta m``, ``s = sigmoid(x / tau)``. With ``L = softplus(-x)`` and
    ``E = exp(-x)`` the gradient in the margin is ``beta (s (1 - s) (E - L) / tau - (1 - s) sigmoid(-x) - s E)``. It is
    not convex: at the default tau it has a minimum at ``x = -0.1186`` and a maximum at ``x = 0.0720``, so the first
    steps from the base narrow the margin. The exponential is taken of ``log s - x``, which does not overflow.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.
        discopop_tau: width of the passage from one to the other, in scaled margins, in (0, 1].

    Returns:
        The loss of each pair, ``(B,)``.
    """
    logits = beta * pairs.margin
    left = torch.sigmoid(-logits / discopop_tau) * F.softplus(-logits)
    return left + torch.exp(F.logsigmoid(logits / discopop_tau) - logits)


@method(paper="arXiv:2406.08414", dial="beta", neutral={"max_steps": 0})
class DiscoPOP(PreferenceMethod):
    """DPO where the policy is wrong and an exponential loss where it is right."""

    beta: Annotated[float, Gt(0)] = 0.05
    discopop_tau: Annotated[float, Gt(0), Le(1)] = 0.05

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return discopop_loss(pairs, beta=self.beta, discopop_tau=self.discopop_tau)
