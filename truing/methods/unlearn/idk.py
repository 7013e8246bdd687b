"""Imitation of refusals where something is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import MinLen

from truing.core.evidence import Rating
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable, Reply
from truing.core.run import Run
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod
from truing.methods.unlearn._refusals import REFUSALS, answers


def idk_loss(forgotten: ForgetLogps) -> torch.Tensor:
    """The negative log-likelihood of a refusal, ``-S_r / n_r``. "IDK" of Maini et al. 2024, arXiv:2401.06121.

    A mean over the tokens of the refusal. The gradient is ``-1 / n_r`` in its sum and 0 in that of the reply to forget,
    which falls only as far as the refusal takes its place.

    Args:
        forgotten: with one refusal each in ``instead``, ``(B, 1)``, summed over tokens, nats, with lengths.

    Returns:
        The loss of each refusal, ``(B,)``, nats a token.
    """
    return -forgotten.instead_per_token.mean(1)


@method(paper="arXiv:2401.06121", dial="num_train_epochs", neutral={"max_steps": 0})
class IDK(UnlearningMethod):
    """Imitates a refusal at every prompt with something to forget; the knowledge may stay below it.

    Attributes:
        refusals: one is drawn for each prompt.
    """

    uses_reference: ClassVar[bool] = False
    refusals: Annotated[tuple[str, ...], MinLen(1)] = REFUSALS

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return idk_loss(forgotten)

    def instead(self, base: Editable, forget: Sequence[Rating], run: Run) -> Sequence[tuple[Reply, ...]]:
        return answers(forget, self.refusals, run)
