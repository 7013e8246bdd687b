"""RAM: what one donor changed is kept, what several did is averaged."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._family import MergeMethod


def ram_merge(deltas: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    """The sum of the deltas over the number of donors that changed this number by more than ``epsilon``.
    Reinforced Agent Merging, 2026, arXiv:2601.13572.

    Args:
        deltas: ``(K, *S)``.

    Returns:
        ``(*S)``; 0 where nobody changed anything.
    """
    changed = deltas.abs() > epsilon
    return (deltas * changed).sum(0) / changed.sum(0).clamp(min=1)


@method(paper="arXiv:2601.13572", dial="lambda_", neutral={"lambda_": 0.0})
class Ram(MergeMethod):
    """Keeps a change that one donor made as it is, and averages those that several made.

    Attributes:
        epsilon: changes up to this size are none.
        lambda_: scales what is added to the base.
    """

    epsilon: Annotated[float, Ge(0)] = 1e-5
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        return self.lambda_ * ram_merge(deltas, epsilon=self.epsilon)
