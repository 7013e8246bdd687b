"""Length-desensitised DPO."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def ld_dpo_loss(pairs: PairLogps, *, beta: float, ld_alpha: float) -> torch.Tensor:
    """DPO in which tokens beyond the shorter reply count for less. Liu et al. 2024, arXiv:2409.06411.

    DPO's loss with ``log p(y) = sum_{t <= n} log p_t + alpha sum_{t > n} log p_t``, ``n`` the length of the shorter
    reply, under policy and base alike. The gradient is DPO's, ``-beta sigmoid(-beta m)`` on each of the chosen reply's
    first ``n`` tokens and its opposite on the rejected one's, and ``alpha`` times that on those that follow.

    Args:
        pairs: log-probabilities by token, nats.
        beta: pull towards the base, > 0, in 1/nat.
        ld_alpha: weight of the excess, in [0, 1].

    Returns:
        The loss of each pair, ``(B,)``.
    """
    tokens = pairs.by_token
    shared = tokens.counts.amin(1)[tokens.owner // 2]
    weights = torch.where(tokens.position < shared, 1.0, ld_alpha)
    sums = tokens.sums(weights * (tokens.policy - tokens.reference))
    return logistic(beta * (sums[:, 0] - sums[:, 1]), 0)


@method(paper="arXiv:2409.06411", dial="ld_alpha", neutral={"max_steps": 0})
class LDDPO(PreferenceMethod):
    """DPO that learns less from what a reply says after the other has ended, so that length pays less."""

    beta: Annotated[float, Gt(0)] = 0.1
    ld_alpha: Annotated[float, Ge(0), Le(1)] = 0.5

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return ld_dpo_loss(pairs, beta=self.beta, ld_alpha=self.ld_alpha)
