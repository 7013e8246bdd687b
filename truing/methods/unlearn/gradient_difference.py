"""Gradient difference: ascent on what is to be forgotten, descent on what is to be retained."""

from __future__ import annotations

from typing import ClassVar, Literal

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod
from truing.methods.unlearn._terms import Scale, ascent


def gradient_difference_loss(forgotten: ForgetLogps, *, scale: Scale) -> torch.Tensor:
    """The forgetting half, that of gradient ascent. Liu et al. 2022, arXiv:2203.12817.

    ``S / n`` (``token``) or ``S`` (``reply``), with the gradient ``1 / n`` or 1. The other half, ``- S / n`` of what is
    to be retained, always a mean over tokens, is the family's: ``token`` puts both on one scale, nats a token.

    Args:
        forgotten: log-probabilities of replies, each summed over tokens, ``(B,)``, nats, with lengths.
        scale: a mean over the tokens of a reply, or their sum.

    Returns:
        The loss of each reply, ``(B,)``.
    """
    return ascent(forgotten, scale)


@method(paper="arXiv:2203.12817", dial="retain_weight", neutral={"max_steps": 0})
class GradientDifference(UnlearningMethod):
    """Gradient ascent that goes on imitating what is to be retained.

    Attributes:
        retain: always ``nll``; ``unlearn/gradient_ascent`` has the other ways.
        scale: of the forgetting half: ``token`` is a mean over the tokens of a reply, ``reply`` their sum.
    """

    uses_reference: ClassVar[bool] = False
    retain: Literal["nll"] = "nll"
    scale: Scale = "token"

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return gradient_difference_loss(forgotten, scale=self.scale)
