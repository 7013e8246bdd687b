"""Weight averaging."""

from __future__ import annotations

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._family import MergeMethod


def linear_merge(deltas: torch.Tensor, *, weight: float) -> torch.Tensor:
    """``weight`` times the mean of the deltas. Wortsman et al. 2022, arXiv:2203.05482 and arXiv:2109.01903.

    Args:
        deltas: donor minus base, ``(K, *S)``.
        weight: 0 is the base, 1 the mean of the donors; beyond 1 extrapolates.

    Returns:
        The difference to add to the base, ``(*S)``.
    """
    return weight * deltas.mean(0)


@method(paper="arXiv:2203.05482", dial="weight", neutral={"weight": 0.0})
class Linear(MergeMethod):
    """Averages base and donors: with one donor, the line between the model as it was and as it was tuned."""

    weight: float = 0.5

    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        return linear_merge(deltas, weight=self.weight)
