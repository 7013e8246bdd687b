"""Trust-region DPO: the reference follows the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Le

from truing.core.errors import Fault
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._reference import MovingReference, Reference
from truing.methods.preference._terms import logistic


def tr_dpo_loss(pairs: PairLogps, *, beta: float) -> torch.Tensor:
    """DPO's loss over a reference that moves. Gorbatovski et al. 2024, arXiv:2404.09656.

    ``softplus(-beta m)``; the gradient in the margin is ``-beta sigmoid(-beta m)``, and none goes through the
    reference.

    Args:
        pairs: reply log-probabilities under the policy and the reference of this step, ``(B,)``, nats.
        beta: pull towards the reference, > 0, in 1/nat.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return logistic(beta * pairs.margin, 0)


@method(paper="arXiv:2404.09656", dial="ref_model_sync_steps", neutral={"max_steps": 0})
class TRDPO(PreferenceMethod):
    """DPO whose reference is moved towards the policy as it trains, so that it may go further from the base.

    The reference is a second copy of the weights, scored at every step and kept in checkpoints.

    Attributes:
        ref_model_mixup_alpha: the policy's share in the reference after a move; 1 is the paper's hard update.
        ref_model_sync_steps: optimiser steps from one move to the next.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    ref_model_mixup_alpha: Annotated[float, Gt(0), Le(1)] = 0.6
    ref_model_sync_steps: Annotated[int, Ge(1)] = 512

    @classmethod
    def traits(cls) -> Mapping[str, str]:
        return {**super().traits(), "reference": "a copy that follows"}

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return tr_dpo_loss(pairs, beta=self.beta)

    def reference(self, base: Editable, trees: Sequence[Tree], run: Run) -> Reference:
        return MovingReference(base, trees, self.ref_model_mixup_alpha, self.ref_model_sync_steps, self.precision)

    def faults(self, place: str = "") -> list[Fault]:
        found = super().faults(place)
        if self.lora_r:
            fact = "moves the reference by its weights, and adapters are products of weights"
            found.append(Fault(place, fact, "Leave lora_r out, or use preference/dpo."))
        return found
