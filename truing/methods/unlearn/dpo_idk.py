"""DPO of a refusal over what is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Gt, MinLen

from truing.core.evidence import Rating
from truing.core.lazy import F, torch
from truing.core.method import method
from truing.core.policy import Editable, Reply
from truing.core.run import Run
from truing.methods.unlearn._family import ForgetLogps, UnlearningMethod
from truing.methods.unlearn._refusals import REFUSALS, answers


def dpo_idk_loss(forgotten: ForgetLogps, *, beta: float) -> torch.Tensor:
    """``-(2 / beta) log sigmoid(beta (h_r - h))`` against a refusal. A baseline of Zhang et al. 2024, arXiv:2404.05868.

    The gradient is ``2 w`` in the sum of the reply to forget and ``-2 w`` in the refusal's, ``w = sigmoid(-beta (h_r -
    h))``: DPO's times ``2 / beta``, so that it begins at 1 as NPO's does. Log-ratios are sums over tokens.

    Args:
        forgotten: with one refusal each in ``instead``, ``(B, 1)``, under the policy and its base, nats.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each reply, ``(B,)``, nats, > 0.
    """
    return (2 / beta) * F.softplus(-beta * (forgotten.instead_ratio - forgotten.ratio))


@method(paper="arXiv:2404.05868", dial="beta", neutral={"max_steps": 0})
class DPOIDK(UnlearningMethod):
    """Prefers a refusal to what is to be forgotten.

    Attributes:
        refusals: one is drawn for each prompt.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    refusals: Annotated[tuple[str, ...], MinLen(1)] = REFUSALS

    def loss(self, forgotten: ForgetLogps) -> torch.Tensor:
        return dpo_idk_loss(forgotten, beta=self.beta)

    def instead(self, base: Editable, forget: Sequence[Rating], run: Run) -> Sequence[tuple[Reply, ...]]:
        return answers(forget, self.refusals, run)
