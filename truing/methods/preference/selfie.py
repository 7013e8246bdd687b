"""Preferences that a model spread itself, with doubt."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge, Gt, Le

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.core.trees import Extras
from truing.engine.fit import planned
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._memory import Memory, RecentMargins, least


def selfie_loss(pairs: PairLogps, doubted: torch.Tensor, *, beta: float, alpha: float) -> torch.Tensor:
    """DPO with smoothed labels for doubted pairs only. Kim et al. 2024, arXiv:2406.04412.

    ``(1 - alpha z) softplus(-beta m) + alpha z softplus(beta m)``, ``z`` 1 for a doubted pair and else 0. The gradient
    in the margin is ``-beta (sigmoid(-beta m) - alpha z)``, and none goes through ``z``.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        doubted: ``z``, ``(B,)``.
        beta: pull towards the base, > 0, in 1/nat.
        alpha: how likely the label of a doubted pair is wrong, in [0, 1].

    Returns:
        The loss of each pair, ``(B,)``.
    """
    flipped, logits = alpha * doubted, beta * pairs.margin
    return (1 - flipped) * F.softplus(-logits) + flipped * F.softplus(logits)


@method(paper="arXiv:2406.04412", dial="alpha", neutral={"max_steps": 0})
class Selfie(PreferenceMethod):
    """DPO on pairs that a model labelled itself (``synthesize/self_labelled``), which doubts the least certain of them.

    Certainty is the margin of the policy that is trained over its base, which is the model of the round before. A pair
    is doubted where its margin is below a quantile of those of the last steps, this one included; a step is seen whole,
    so it is scored twice. The paper's code keeps one number a micro-batch, and doubts nothing before the window is
    full. With an extrapolation the margin is that of a model further on the way from the base, which tells noise better
    than the one that learns from it; the paper has 1/2, 1/4 and 1/8 in its rounds, and it costs a pass of the base.

    Attributes:
        alpha: how likely a doubted label is taken to be wrong; 0 is DPO.
        doubted_share: of the pairs, those that are doubted: the paper's K.
        window: steps whose margins make up the quantile.
        extrapolation: how much further from the base the logits are by which certainty is measured, in units of the way
            that the policy has come: the paper's lambda.
        trusting_share: of all steps, those at the start in which no pair is doubted.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    alpha: Annotated[float, Ge(0), Le(1)] = 0.1
    doubted_share: Annotated[float, Ge(0), Le(1)] = 0.1
    window: Annotated[int, Ge(1)] = 50
    extrapolation: Annotated[float, Ge(0)] = 0.0
    trusting_share: Annotated[float, Ge(0), Le(1)] = 0.2

    @property
    def extras(self) -> Extras:
        return Extras(extrapolation=self.extrapolation)

    @property
    def sees_step(self) -> bool:
        return True

    def of_step(self, step: PairLogps) -> torch.Tensor:
        return least(step.certainty, step.certainty, self.doubted_share)

    def memory(self, examples: int) -> Memory:
        trusting = math.ceil(self.trusting_share * planned(examples, self)[1])
        return RecentMargins(self.doubted_share, self.window, trusting)

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        doubted = self.of_step(pairs) if pairs.of_step is None else pairs.of_step
        return selfie_loss(pairs, doubted, beta=self.beta, alpha=self.alpha)
