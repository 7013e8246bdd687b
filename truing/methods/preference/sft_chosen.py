"""Imitation of the chosen replies alone."""

from __future__ import annotations

from typing import ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import chosen_nll


def sft_chosen_loss(pairs: PairLogps) -> torch.Tensor:
    """The chosen reply's negative log-likelihood, a mean over its own tokens: ``-S_w / n_w``, TRL's ``sft``.

    The gradient is ``-1 / n_w`` on the chosen sum. TRL averages over the tokens of a micro-batch, where a long reply
    weighs more, as ``imitation/sft`` does over those of a step.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.

    Returns:
        The loss of each pair, ``(B,)``, nats a token.
    """
    return chosen_nll(pairs)


@method(paper="arXiv:2411.10442", dial="num_train_epochs", neutral={"max_steps": 0})
class SFTChosen(PreferenceMethod):
    """Imitates the chosen replies and ignores the rejected: a baseline on the same pairs, and a term of mpo."""

    uses_reference: ClassVar[bool] = False
    compares = "means"

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return sft_chosen_loss(pairs)
