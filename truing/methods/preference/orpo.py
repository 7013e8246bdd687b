"""Odds-ratio preference optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import chosen_nll, log_odds, logistic


def orpo_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Imitation of the chosen reply, and its odds over the rejected one. Hong et al. 2024, arXiv:2403.07691.

    ``-S_w / n_w + beta softplus(-(odds_w - odds_l))``, ``odds = log(p / (1 - p))`` of the geometric mean
    ``p = exp(S / n)`` of a reply's token probabilities. In ``S_w / n_w`` the gradient is ``-1 - beta w / (1 - p_w)``,
    in ``S_l / n_l`` it is ``beta w / (1 - p_l)``, ``w = sigmoid(odds_l - odds_w)``. The imitation is of the reply
    alone, a mean over its tokens and then over pairs, as in the paper; TRL imitates the prompt too.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: weight of the odds ratio, the paper's lambda, >= 0.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    mean = pairs.averaged()
    return chosen_nll(pairs) + beta * logistic(log_odds(mean.chosen) - log_odds(mean.rejected), 0)


@method(paper="arXiv:2403.07691", dial="beta", neutral={"max_steps": 0})
class ORPO(PreferenceMethod):
    """Imitates the chosen reply and raises its odds over the rejected one, in one stage without a reference pass."""

    uses_reference: ClassVar[bool] = False
    compares = "means"
    beta: Annotated[float, Ge(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return orpo_loss(pairs, beta=self.beta)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * mean.chosen, self.beta * mean.rejected
