"""Weighted preference optimisation: pairs as if they were the policy's own."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.core.trees import Extras
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def wpo_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """DPO weighted by how likely the policy is to say both replies. Eq. 2, Zhou et al. 2024, arXiv:2406.11827.

    ``w_w w_l softplus(-beta m)`` with ``w = exp(mean_t (log p_t - log sum_v p_t(v)^2))`` without gradient: each token
    is measured by what a token drawn there would have on average ("sampled alignment"), so a reply of the policy's own
    has about 1. A weight may exceed 1. The gradient is DPO's times the weights.

    Args:
        pairs: log-probabilities by token, nats, with collisions.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``.

    Raises:
        ValueError: the collisions are not known.
    """
    tokens = pairs.by_token
    if tokens.collisions is None:
        raise ValueError("the weights need the chance that two draws of the policy agree, token by token")
    aligned = tokens.sums(tokens.policy.detach() - tokens.collisions) / tokens.counts.clamp_min(1)
    return torch.exp(aligned.sum(1)) * logistic(beta * pairs.margin, 0)


@method(paper="arXiv:2406.11827", dial="beta", neutral={"max_steps": 0})
class WPO(PreferenceMethod):
    """DPO that trusts pairs the more, the more both replies are what the policy itself might say."""

    compares = "sums and means"
    beta: Annotated[float, Gt(0)] = 0.1

    @property
    def extras(self) -> Extras:
        return Extras(collisions=True)

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return wpo_loss(pairs, beta=self.beta)
