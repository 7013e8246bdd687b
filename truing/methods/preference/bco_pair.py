"""Binary cross-entropy on both replies of a pair."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def bco_pair_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """Classifies each reply by its own reward. Jung et al. 2024, arXiv:2404.04656, without its shift.

    ``softplus(-r_w) + softplus(r_l)``, ``r = beta h``: an upper bound of DPO's loss. It is what TRL calls ``bco_pair``
    from 0.29 on; the paper, and TRL up to 0.24, subtract a running mean of the rewards from both. The gradient is
    ``-beta sigmoid(-r_w)`` on the chosen sum and ``beta sigmoid(r_l)`` on the rejected one.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return F.softplus(-beta * pairs.chosen_ratio) + F.softplus(beta * pairs.rejected_ratio)


@method(paper="arXiv:2404.04656", dial="beta", neutral={"max_steps": 0})
class BCOPair(PreferenceMethod):
    """Raises the chosen reply over its base and lowers the rejected one, each for itself."""

    beta: Annotated[float, Gt(0)] = 0.1

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return bco_pair_loss(pairs, beta=self.beta)
