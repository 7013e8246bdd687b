"""Contrastive preference optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import chosen_nll, logistic


def cpo_loss(pairs: PairLogps, *, beta: float, cpo_alpha: float, label_smoothing: float) -> torch.Tensor:
    """DPO's loss under a uniform base, and imitation of the chosen reply. Xu et al. 2024, arXiv:2401.08417.

    ``softplus(-beta (S_w - S_l)) - cpo_alpha S_w / n_w``. The gradient is ``-beta w - cpo_alpha / n_w`` on the chosen
    sum and ``beta w`` on the rejected one, ``w = sigmoid(-beta (S_w - S_l))``. The second term is a mean over the
    tokens of a reply and then over pairs. TRL averages over the tokens of a micro-batch: there a long reply weighs
    more, and the cut into micro-batches changes the loss.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: scale of the margin, > 0, in 1/nat.
        cpo_alpha: weight of the imitation, >= 0, in tokens a nat.
        label_smoothing: weight of the flipped pair, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return logistic(beta * (pairs.chosen - pairs.rejected), label_smoothing) + cpo_alpha * chosen_nll(pairs)


@method(paper="arXiv:2401.08417", dial="cpo_alpha", neutral={"max_steps": 0})
class CPO(PreferenceMethod):
    """Raises the chosen reply over the rejected one and imitates it; needs no reference pass."""

    uses_reference: ClassVar[bool] = False
    compares = "sums and means"
    beta: Annotated[float, Gt(0)] = 0.1
    cpo_alpha: Annotated[float, Ge(0)] = 1.0
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return cpo_loss(pairs, beta=self.beta, cpo_alpha=self.cpo_alpha, label_smoothing=self.label_smoothing)
