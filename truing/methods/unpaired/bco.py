"""Binary classifier optimisation: the implicit reward as the logit of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod
from truing.methods.unpaired._prompts import density_ratios
from truing.methods.unpaired._rated import RunningMean


def bco_loss(rated: RatedLogps, delta: torch.Tensor, weight: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Cross-entropy of desirable against undesirable. Jung et al. 2024, arXiv:2404.04656.

    ``softplus(-(r - delta))`` for a desirable reply, ``w softplus(r - delta)`` for another, ``r = beta h``. For any
    pair the sum of the two is above DPO's loss, and nearest to it where ``delta`` is the mean of the two rewards. The
    gradient in ``h`` is ``-beta sigmoid(-(r - delta))`` and ``beta w sigmoid(r - delta)``: it fades on replies that are
    told right, and only there. None goes through ``delta``.

    Args:
        rated: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        delta: ``()``, what is taken from every reward.
        weight: ``(B,)``, of undesirable replies; it is not read where a reply is desirable.
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each example, ``(B,)``, >= 0.
    """
    losses = F.softplus(-rated.sign * (beta * rated.ratio - delta.detach()))
    return torch.where(rated.desirable, losses, weight * losses)


@method(paper="arXiv:2404.04656", dial="beta", neutral={"max_steps": 0})
class BCO(UnpairedMethod):
    """Trains the policy as a classifier of desirable and undesirable replies, by their rewards.

    The shift is of the steps before, and so costs no pass of its own; it begins at 0, where all rewards are. Without a
    shift it is plain binary cross-entropy.

    Attributes:
        shift: what is taken from every reward: the mean of all rewards so far, one that forgets, or nothing.
        shift_decay: the share of the old mean in the new one after a step, where ``shift`` is ``ema``.
        udm: underlying distribution matching: undesirable replies are weighted by how desirable replies' prompts
            are like theirs, for ratings of which good and bad ones are of other prompts.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    shift: Literal["mean", "ema", "none"] = "mean"
    shift_decay: Annotated[float, Gt(0), Lt(1)] = 0.9
    udm: bool = False

    def running(self) -> RunningMean | None:
        if self.shift == "none":
            return None
        return RunningMean(self.shift_decay if self.shift == "ema" else None)

    def weigh(self, base: Editable, trees: Sequence[Tree], desirable: torch.Tensor, run: Run) -> torch.Tensor | None:
        return (
            density_ratios(base, [tree.prompt for tree in trees], desirable, run, self.precision) if self.udm else None
        )

    def loss(self, rated: RatedLogps) -> torch.Tensor:
        delta = rated.policy.new_zeros(()) if rated.shift is None else rated.shift
        weight = torch.ones_like(rated.policy) if rated.weight is None else rated.weight
        return bco_loss(rated, delta, weight.detach(), beta=self.beta)

    def step_metrics(self, rated: RatedLogps) -> Mapping[str, torch.Tensor]:
        found = {} if rated.shift is None else {"shift": rated.shift.expand(len(rated.policy))}
        return found if rated.weight is None else {**found, "udm_weight": rated.weight}
