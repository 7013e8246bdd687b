"""Direct preference optimisation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def dpo_loss(pairs: PairLogps, *, beta: float, label_smoothing: float) -> torch.Tensor:
    """Minus log sigmoid of beta times the margin. Eq. 7, Rafailov et al. 2023, arXiv:2305.18290.

    With label smoothing it is conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"): the cross
    entropy from labels that are right with probability ``1 - label_smoothing``. The gradient in the margin is
    ``-beta (sigmoid(-beta m) - label_smoothing)``, 0 at a margin of ``logit(1 - label_smoothing) / beta`` nats. TRL
    smooths so up to 0.24 and ignores the setting from 0.29 on.

    Args:
        pairs: reply log-probabilities under the policy and its base, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.
        label_smoothing: weight of the flipped pair, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``; the caller reduces.
    """
    return logistic(beta * pairs.margin, label_smoothing)


@method(paper="arXiv:2305.18290", dial="beta", neutral={"max_steps": 0})
class DPO(PreferenceMethod):
    """Raises the chosen reply over the rejected one, as far as beta lets it leave the base."""

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return dpo_loss(pairs, beta=self.beta, label_smoothing=self.label_smoothing)
