"""Anchored preference optimisation, zero, on single replies."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod


def apo_zero_unpaired_loss(
    rated: RatedLogps, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> torch.Tensor:
    """Raises desirable replies over the base and lowers the others. D'Oosterlinck et al. 2024, arXiv:2408.06266.

    The two terms of Eq. 7 taken apart, TRL's ``apo_zero_unpaired``: ``lambda_D sigmoid(-r)`` for a desirable reply,
    ``lambda_U sigmoid(r)`` for another, ``r = beta h``. It is KTO with its reference point at 0. The gradient in ``h``
    is ``-lambda_D beta s (1 - s)`` and ``lambda_U beta s (1 - s)``, ``s = sigmoid(r)``.

    Args:
        rated: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: how soon a log-ratio is far enough, > 0, in 1/nat.
        desirable_weight, undesirable_weight: lambda_D and lambda_U, >= 0.

    Returns:
        The loss of each example, ``(B,)``, in (0, lambda).
    """
    weight = rated.by_side(desirable_weight, undesirable_weight)
    return weight * torch.sigmoid(-beta * rated.sign * rated.ratio)


@method(paper="arXiv:2408.06266", dial="beta", neutral={"max_steps": 0})
class APOZeroUnpaired(UnpairedMethod):
    """Raises desirable replies over the base and lowers the others, each for itself and only so far.

    Attributes:
        desirable_weight, undesirable_weight: of the two sides; the loss is a mean over all examples.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    desirable_weight: Annotated[float, Ge(0)] = 1.0
    undesirable_weight: Annotated[float, Ge(0)] = 1.0

    needs_both: ClassVar[bool] = False

    def loss(self, rated: RatedLogps) -> torch.Tensor:
        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        return apo_zero_unpaired_loss(rated, beta=self.beta, **weights)
