"""Gradient ascent on the likelihood's loss."""

from __future__ import annotations

from typing import ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod
from truing.methods.unlearn._terms import Scale, ascent


def gradient_ascent_loss(forgotten: ForgetLogps, *, scale: Scale) -> torch.Tensor:
    """The log-probability of what is to be forgotten. Jang et al. 2022, arXiv:2210.01504.

    ``S / n`` (``token``, as in the code of TOFU and of NPO) or ``S`` (``reply``, to which NPO tends as its beta goes
    to 0). The gradient is ``1 / n`` or 1, however little is left: the loss has no lower bound.

    Args:
        forgotten: log-probabilities of replies, each summed over tokens, ``(B,)``, nats, with lengths.
        scale: a mean over the tokens of a reply, or their sum.

    Returns:
        The loss of each reply, ``(B,)``, nats a token or nats.
    """
    return ascent(forgotten, scale)


@method(paper="arXiv:2210.01504", dial="num_train_epochs", neutral={"max_steps": 0})
class GradientAscent(UnlearningMethod):
    """Lowers the likelihood of what is to be forgotten without end: the baseline, which ends in collapse.

    With ``retain: kl`` it is TOFU's KL minimisation.

    Attributes:
        scale: ``token`` is a mean over the tokens of a reply, ``reply`` their sum.
    """

    uses_reference: ClassVar[bool] = False
    scale: Scale = "token"

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return gradient_ascent_loss(forgotten, scale=self.scale)
