"""Regularised preference optimisation: DPO and imitation of the chosen reply."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import chosen_nll, logistic


def rpo_loss(pairs: PairLogps, *, beta: float, rpo_alpha: float) -> torch.Tensor:
    """DPO's loss, and the chosen reply's mean negative log-likelihood. Liu et al. 2024, arXiv:2405.16436.

    ``softplus(-beta m) - rpo_alpha S_w / n_w``. The gradient is ``-beta w - rpo_alpha / n_w`` on the chosen sum and
    ``beta w`` on the rejected one, ``w = sigmoid(-beta m)``. There is one scale: nats a token, a mean over a reply's
    tokens and then over pairs. It is that of Pang et al. 2024, arXiv:2404.19733, of TRL's ``rpo_alpha`` and of
    OpenRLHF's ``nll_loss_coef`` but for their means over a micro-batch. Liu et al.'s eta weighs ``-beta S_w``, a sum:
    for a reply of ``n`` tokens it is ``rpo_alpha = eta beta n``.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: pull towards the base, > 0, in 1/nat.
        rpo_alpha: weight of the imitation, >= 0, in tokens a nat.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return logistic(beta * pairs.margin, 0) + rpo_alpha * chosen_nll(pairs)


@method(paper="arXiv:2405.16436", dial="rpo_alpha", neutral={"max_steps": 0})
class RPO(PreferenceMethod):
    """DPO that also imitates the chosen reply, so that its probability does not fall with the rejected one's."""

    compares = "sums and means"
    beta: Annotated[float, Gt(0)] = 0.1
    rpo_alpha: Annotated[float, Ge(0)] = 1.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return rpo_loss(pairs, beta=self.beta, rpo_alpha=self.rpo_alpha)
