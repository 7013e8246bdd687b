"""Direct preference optimisation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def dpo_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Softplus of minus beta times the margin. Eq. 7, Rafailov et al. 2023, arXiv:2305.18290.

    Args:
        pairs: reply log-probabilities under the policy and its base, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``; the caller reduces.
    """
    return F.softplus(-beta * pairs.margin)  # -log sigmoid, without overflow at wide margins


@method(paper="arXiv:2305.18290", dial="beta", neutral={"max_steps": 0})
class DPO(PreferenceMethod):
    """Raises the chosen reply over the rejected one, as far as beta lets it leave the base."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return dpo_loss(pairs, beta=self.beta)
