"""Noise-contrastive alignment on pairs."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def nca_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Tells each reply from noise by its own reward. Hard labels, Chen et al. 2024, arXiv:2402.05369.

    ``softplus(-r_w) + softplus(r_w) / 2 + softplus(r_l) / 2``, ``r = beta h``; TRL's ``nca_pair``. The gradient is
    ``beta (sigmoid(r_w) / 2 - sigmoid(-r_w))`` on the chosen sum, 0 at ``r_w = log 2``, and ``beta sigmoid(r_l) / 2``
    on the rejected one: the chosen reply has a place of its own, so it does not sink with the rejected one.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    chosen, rejected = beta * pairs.chosen_ratio, beta * pairs.rejected_ratio
    return F.softplus(-chosen) + (F.softplus(chosen) + F.softplus(rejected)) / 2


@method(paper="arXiv:2402.05369", dial="beta", neutral={"max_steps": 0})
class NCA(PreferenceMethod):
    """Raises the chosen reply to a fixed reward and lowers the rejected one, each for itself."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return nca_loss(pairs, beta=self.beta)
