"""Self-play preference optimisation with hard preferences."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def sppo_hard_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Squared distance of each log-ratio from its own target. Eq. 4.7, Wu et al. 2024, arXiv:2405.00675.

    The paper's ``eta (P - 1/2)`` with ``eta = 1 / beta`` and the win rate ``P`` set to 1 for the chosen and 0 for the
    rejected reply. The gradient is ``2 (h - target)``, for each reply alone.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: the targets are plus and minus ``1 / (2 beta)`` nats, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``, nats squared.
    """
    target = 1 / (2 * beta)
    return (pairs.chosen_ratio - target).square() + (pairs.rejected_ratio + target).square()


@method(paper="arXiv:2405.00675", dial="beta", neutral={"max_steps": 0})
class SPPOHard(PreferenceMethod):
    """Moves each reply by a fixed log-ratio, the chosen up and the rejected down, and not only their difference."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return sppo_hard_loss(pairs, beta=self.beta)
