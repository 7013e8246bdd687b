"""Aligned supervised fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import chosen_nll, log_odds, logistic


def asft_loss(pairs: PairLogps, *, beta: float, asft_lambda: float) -> torch.Tensor:
    """Imitation of the chosen reply, and both replies' odds each for itself. Wang et al. 2024, arXiv:2409.10571.

    ``-S_w / n_w + lambda (softplus(-beta odds_w) + softplus(beta odds_l))``, ``odds = log(p / (1 - p))`` of the
    geometric mean ``p = exp(S / n)``, as in ORPO: of a whole reply's probability ``1 - p`` is 1, and the last term has
    no gradient. At ``beta = 1`` it is ``-(1 + lambda) log p_w - lambda log(1 - p_l)``, and its gradient
    ``-(1 + lambda)`` in ``log p_w`` and ``lambda p_l / (1 - p_l)`` in ``log p_l``. beta is the tempering of Gorbatovski
    et al. 2025, arXiv:2502.01237.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: scale of the log odds, > 0.
        asft_lambda: weight of the alignment terms, >= 0.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    mean = pairs.averaged()
    aligned = logistic(beta * log_odds(mean.chosen), 0) + logistic(-beta * log_odds(mean.rejected), 0)
    return chosen_nll(pairs) + asft_lambda * aligned


@method(paper="arXiv:2409.10571", dial="asft_lambda", neutral={"max_steps": 0})
class ASFT(PreferenceMethod):
    """Raises the chosen reply and lowers the rejected one, each by its own likelihood; needs no reference pass."""

    uses_reference: ClassVar[bool] = False
    compares = "means"
    beta: Annotated[float, Gt(0)] = 1.0
    asft_lambda: Annotated[float, Ge(0)] = 1.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return asft_loss(pairs, beta=self.beta, asft_lambda=self.asft_lambda)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * log_odds(mean.chosen), self.beta * log_odds(mean.rejected)
