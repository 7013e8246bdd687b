"""Weight averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._sphere import summed


def linear_merge(deltas: torch.Tensor, *, weight: float) -> torch.Tensor:
    """``weight`` times the mean of the deltas. Wortsman et al. 2022, arXiv:2203.05482 and arXiv:2109.01903.

    Args:
        deltas: donor minus base, ``(K, *S)``.
        weight: 0 is the base, 1 the mean of the donors; beyond 1 extrapolates.

    Returns:
        The difference to add to the base, ``(*S)``.
    """
    return weight * deltas.mean(0)


def weighted_mean(models: Sequence[torch.Tensor], *, weights: Sequence[float], normalize: bool) -> torch.Tensor:
    """``sum w_i theta_i``, with ``normalize`` over ``sum w_i``. Wortsman et al. 2022, arXiv:2203.05482.

    Args:
        models: ``M`` of ``(*S)``.

    Returns:
        ``(*S)``.

    Raises:
        InputError: the weights add up to nothing, and are to be normalised.
    """
    total = sum(weights) if normalize else 1.0
    if not total:
        raise bad("merge/linear", "the weights add up to nothing", "Set normalize: false.")
    return summed(models, [weight / total for weight in weights])


@method(paper="arXiv:2203.05482", dial="weight", neutral={"weight": 0.0})
class Linear(MergeMethod):
    """Averages base and donors: with one donor, the line between the model as it was and as it was tuned.

    Attributes:
        weight: of the donors' mean; the base has the rest.
        weights: instead of ``weight``, one for the base and one for each donor.
        normalize: divide by the sum of ``weights``.
    """

    weight: float = 0.5
    weights: tuple[float, ...] = ()
    normalize: bool = True

    @property
    def cut(self) -> bool:
        return True

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        if self.weights:
            return weighted_mean(at.models, weights=self.weights, normalize=self.normalize)
        return at.base + linear_merge(at.deltas, weight=self.weight)
