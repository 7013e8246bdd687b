"""Provably robust DPO: unbiased under flipped labels."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def robust_loss(pairs: PairLogps, *, beta: float, label_smoothing: float) -> torch.Tensor:
    """DPO's loss less that of the flipped pair. Chowdhury, Kini and Natarajan 2024, arXiv:2403.00409.

    ``((1 - e) softplus(-beta m) - e softplus(beta m)) / (1 - 2 e)``, whose mean over labels that are flipped with
    probability ``e`` is DPO's loss on the true label. The gradient in the margin is
    ``-beta (sigmoid(-beta m) + e / (1 - 2 e))``: it never vanishes, as the loss has no lower bound.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.
        label_smoothing: the share of flipped labels ``e``, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``; below 0 at wide margins where ``e > 0``.
    """
    logits = beta * pairs.margin
    kept, flipped = F.softplus(-logits), F.softplus(logits)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


@method(paper="arXiv:2403.00409", dial="label_smoothing", neutral={"max_steps": 0})
class Robust(PreferenceMethod):
    """DPO that expects a known share of its labels to be flipped, and is right on average all the same."""

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return robust_loss(pairs, beta=self.beta, label_smoothing=self.label_smoothing)
