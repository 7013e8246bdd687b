"""Anchored preference optimisation, zero: for chosen replies better than the model's own."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def apo_zero_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Raises the chosen reply and lowers the rejected one. Eq. 7, D'Oosterlinck et al. 2024, arXiv:2408.06266.

    ``sigmoid(-r_w) + sigmoid(r_l)``, ``r = beta h``. The gradient is ``-beta s_w (1 - s_w)`` on the chosen sum and
    ``beta s_l (1 - s_l)`` on the rejected one, ``s = sigmoid(r)``: both fade as a reply leaves its base.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: how soon a log-ratio is far enough, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``, in (0, 2).
    """
    return torch.sigmoid(-beta * pairs.chosen_ratio) + torch.sigmoid(beta * pairs.rejected_ratio)


@method(paper="arXiv:2408.06266", dial="beta", neutral={"max_steps": 0})
class APOZero(PreferenceMethod):
    """Raises the chosen reply over its base and lowers the rejected one, each for itself and only so far."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return apo_zero_loss(pairs, beta=self.beta)
