"""Efficient exact optimisation on pairs."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Gt, Lt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def exo_loss(pairs: PairLogps, *, beta: float, label_smoothing: float) -> torch.Tensor:
    """Reverse KL from the policy's preference to the smoothed label. Eq. 16, Ji et al. 2024, arXiv:2402.00856.

    ``KL((q, 1 - q) || (1 - e, e))``, ``q = sigmoid(beta m)``; TRL's ``exo_pair``. The gradient in the margin is
    ``beta q (1 - q) (beta m - logit(1 - e))``: it fades for pairs that are far from undecided, on either side.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.
        label_smoothing: the label's chance to be wrong ``e``, in (0, 0.5); at 0 the KL would be infinite.

    Returns:
        The loss of each pair, ``(B,)``, nats, >= 0.
    """
    logits = beta * pairs.margin
    right = torch.sigmoid(logits) * (F.logsigmoid(logits) - math.log1p(-label_smoothing))
    wrong = torch.sigmoid(-logits) * (F.logsigmoid(-logits) - math.log(label_smoothing))
    return right + wrong


@method(paper="arXiv:2402.00856", dial="beta", neutral={"max_steps": 0})
class EXO(PreferenceMethod):
    """Matches the policy's own preference to the label by the reverse KL, where DPO uses the forward one."""

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Gt(0), Lt(0.5)] = 1e-3

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return exo_loss(pairs, beta=self.beta, label_smoothing=self.label_smoothing)
