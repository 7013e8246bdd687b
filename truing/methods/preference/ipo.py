"""Identity preference optimisation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def ipo_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Squared distance of the margin from ``1 / (2 beta)``. Eq. 17, Azar et al. 2023, arXiv:2310.12036.

    The margin is the paper's: of log-probabilities summed over tokens. TRL and others average over tokens, which sets
    another target for the same number.

    Args:
        pairs: reply log-probabilities, ``(B,)``, nats.
        beta: the paper's tau, > 0, in 1/nat; the target is ``1 / (2 beta)`` nats.

    Returns:
        The loss of each pair, ``(B,)``, nats squared.
    """
    return (pairs.margin - 1 / (2 * beta)).square()


@method(paper="arXiv:2310.12036", dial="beta", neutral={"max_steps": 0})
class IPO(PreferenceMethod):
    """Regresses the margin on a fixed target, so that certain preferences cannot push it without bound."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return ipo_loss(pairs, beta=self.beta)
