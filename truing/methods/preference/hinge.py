"""The hinge on the margin: SLiC's on log-probabilities, RSO's on log-ratios."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def hinge_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """What the scaled margin lacks to 1. Liu et al. 2023, arXiv:2309.06657 (RSO's "hinge-norm").

    SLiC's own (arXiv:2305.10425) is on log-probabilities, without a base, and in nats: ``delta = 1 / beta``. The
    gradient in the margin is ``-beta`` below ``1 / beta`` nats and 0 above.

    Args:
        pairs: reply log-probabilities under the policy and its base, each summed over tokens, ``(B,)``, nats.
        beta: pairs with a margin beyond ``1 / beta`` nats no longer pull, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``, >= 0; the caller reduces.
    """
    return (1 - beta * pairs.margin).clamp(min=0)


@method(paper="arXiv:2309.06657", dial="beta", neutral={"max_steps": 0})
class Hinge(PreferenceMethod):
    """Raises the chosen reply over the rejected one until the margin is wide enough, and then leaves it."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return hinge_loss(pairs, beta=self.beta)
