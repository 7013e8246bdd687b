"""Imitation with a KL term to the base on what is imitated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.retain._family import Hold, RetainMethod, Tokens, likelihood


def kl_to_base_loss(tokens: Tokens, *, weight: float) -> torch.Tensor:
    """``-log p(t) + weight KL(base || policy)`` of each token, ``(T,)``, nats. Li and Hoiem 2016, arXiv:1606.09282.

    The gradient in the logits is ``(p - onehot) + weight (p - p_base)``: at ``weight`` w the target is the mixture
    ``(onehot + w p_base) / (1 + w)``, times ``1 + w``.

    Args:
        tokens: log-probabilities of the demonstrations' tokens, and the KL over the vocabulary before each.
        weight: of the KL, >= 0.
    """
    return likelihood(tokens) + weight * tokens.divergences


@method(paper="arXiv:1606.09282", dial="weight", neutral={"max_steps": 0})
class KLToBase(RetainMethod):
    """Imitates demonstrations while the base's own distribution is held on the same tokens.

    What the demonstrations never visit is not held; ``retain/replay`` with ``by: kl`` holds other prompts.

    Attributes:
        weight: of the KL from the base, nats a token; at 0 it is ``imitation/sft``.
    """

    weight: Annotated[float, Ge(0)] = 1.0

    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        if not self.weight:
            return Hold()
        return Hold(loss=partial(kl_to_base_loss, weight=self.weight), divergences=True)
