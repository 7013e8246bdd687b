"""DPO on means over tokens."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def ln_dpo_loss(pairs: PairLogps, *, beta: float, label_smoothing: float) -> torch.Tensor:
    """DPO with each reply's log-ratio divided by its own length. Ahrabian et al. 2024, arXiv:2407.15229.

    ``softplus(-beta (h_w / n_w - h_l / n_l))``; TRL's ``sigmoid_norm``. The gradient is ``-beta w / n_w`` on the chosen
    sum and ``beta w / n_l`` on the rejected one, ``w`` the sigmoid of the softplus's argument. A beta here does what
    ``beta / length`` does in DPO.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: pull towards the base, > 0, in tokens a nat.
        label_smoothing: weight of the flipped pair, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return logistic(beta * pairs.averaged().margin, label_smoothing)


@method(paper="arXiv:2407.15229", dial="beta", neutral={"max_steps": 0})
class LNDPO(PreferenceMethod):
    """DPO per token: a long reply weighs no more than a short one."""

    compares = "means"
    beta: Annotated[float, Gt(0)] = 2.0
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return ln_dpo_loss(pairs, beta=self.beta, label_smoothing=self.label_smoothing)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * mean.chosen_ratio, self.beta * mean.rejected_ratio
