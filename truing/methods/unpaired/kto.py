"""Kahneman-Tversky optimisation: replies are gains and losses against a reference point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from truing.core.errors import Fault, InputError, bad
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.trees import Tree
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod


def kto_loss(
    rated: RatedLogps, z: torch.Tensor, *, beta: float, desirable_weight: float, undesirable_weight: float
) -> torch.Tensor:
    """What a reply lacks of its value. Eqs. 7 and 8, Ethayarajh et al. 2024, arXiv:2402.01306.

    ``lambda_D sigmoid(-beta (h - z))`` for a desirable reply, ``lambda_U sigmoid(beta (h - z))`` for another. The
    gradient in ``h`` is ``-lambda_D beta s (1 - s)`` and ``lambda_U beta s (1 - s)``, ``s = sigmoid(beta (h - z))``:
    ``lambda beta / 4`` at ``h = z``, and next to nothing far from it on either side. None goes through ``z``.

    Args:
        rated: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        z: ``(B,)`` or ``()``, >= 0, the reference point, nats.
        beta: how soon a log-ratio is far enough, > 0, in 1/nat.
        desirable_weight, undesirable_weight: lambda_D and lambda_U, >= 0.

    Returns:
        The loss of each example, ``(B,)``, in (0, lambda).
    """
    weight = rated.by_side(desirable_weight, undesirable_weight)
    return weight * torch.sigmoid(-beta * rated.sign * (rated.ratio - z))


def reference_point(mismatched: RatedLogps) -> torch.Tensor:
    """``z = max(0, mean h)`` over a step's prompts with replies to others of its prompts: ``()``, nats.

    A biased estimate of KL(policy || base), on purpose: it is cut off at 0 once the mean is taken.
    """
    return mismatched.ratio.detach().mean().clamp(min=0)


@method(paper="arXiv:2402.01306", dial="beta", neutral={"max_steps": 0})
class KTO(UnpairedMethod):
    """Raises desirable replies above a reference point and lowers the others below it, each only so far.

    The point is the mean log-ratio of each prompt of the step with the reply to another: the next one's in the order
    of the data, among the step. So it is the same however the step is cut up and over whatever processes, and is made
    of the replies that are trained on. It costs a forward pass of the policy and one of the base, and wants four
    examples a step or more. With few replies on one side, choose the weights so that ``desirable_weight`` times the
    number of desirable replies is 1 to 4/3 times ``undesirable_weight`` times that of the others.

    Attributes:
        desirable_weight, undesirable_weight: of the two sides; the loss is a mean over all examples.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    desirable_weight: Annotated[float, Ge(0)] = 1.0
    undesirable_weight: Annotated[float, Ge(0)] = 1.0

    needs_both: ClassVar[bool] = False
    sees_step: ClassVar[bool] = True
    sees_mismatched: ClassVar[bool] = True

    def of_step(self, step: RatedLogps) -> torch.Tensor:
        return reference_point(step).expand(len(step.policy))

    def loss(self, rated: RatedLogps) -> torch.Tensor:
        weights = {"desirable_weight": self.desirable_weight, "undesirable_weight": self.undesirable_weight}
        return kto_loss(rated, rated.surveyed, beta=self.beta, **weights)

    def step_metrics(self, rated: RatedLogps) -> Mapping[str, torch.Tensor]:
        return {"kl": rated.surveyed}

    def faults(self, place: str = "") -> list[Fault]:
        found = super().faults(place)
        if self.step_size < 2:
            fact = "its reference point is a mean over a step's mismatched examples, and a step has one example"
            found.append(Fault(place, fact, "Set per_device_train_batch_size to 4 or more."))
        return found

    def refuse(self, trees: Sequence[Tree], desirable: Sequence[bool]) -> None:
        super().refuse(trees, desirable)
        if found := self.faults(self.card.name):
            raise InputError(*found)
        if len({tree.prompt for tree in trees}) == 1:
            fact = "sets each prompt beside the reply to another, and all ratings are of one prompt"
            raise bad(self.card.name, fact, "Give ratings of more prompts, or use unpaired/apo_zero_unpaired.")
