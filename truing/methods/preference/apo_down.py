"""Anchored preference optimisation, down: for chosen replies worse than the model's own."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def apo_down_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Lowers both, the rejected one more. Eq. 8, D'Oosterlinck et al. 2024, arXiv:2408.06266.

    ``sigmoid(r_w) + sigmoid(-(r_w - r_l))``, ``r = beta h``. With ``s = sigmoid(r_w)`` and ``d = sigmoid(r_w - r_l)``
    the gradient is ``beta (s (1 - s) - d (1 - d))`` on the chosen sum, 0 at the base, and ``beta d (1 - d)`` on the
    rejected one.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: how soon a log-ratio is far enough, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``, in (0, 2).
    """
    return torch.sigmoid(beta * pairs.chosen_ratio) + torch.sigmoid(-beta * pairs.margin)


@method(paper="arXiv:2408.06266", dial="beta", neutral={"max_steps": 0})
class APODown(PreferenceMethod):
    """Lowers the chosen reply, and the rejected one further; for pairs whose better reply is still a poor one."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return apo_down_loss(pairs, beta=self.beta)
