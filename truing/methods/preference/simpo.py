"""Simple preference optimisation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def simpo_loss(pairs: PairLogps, *, beta: float, simpo_gamma: float, label_smoothing: float) -> torch.Tensor:
    """DPO's loss on mean log-probabilities, less a margin, without a base. Eq. 6, Meng et al. 2024, arXiv:2405.14734.

    ``softplus(-(beta (S_w / n_w - S_l / n_l) - gamma))``. The gradient is ``-beta w / n_w`` on the chosen sum and
    ``beta w / n_l`` on the rejected one, with ``w`` the sigmoid of the softplus's argument.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: scale of the mean log-probabilities, > 0, in tokens a nat.
        simpo_gamma: the wanted margin after scaling, >= 0; the authors' code asks for ``gamma / beta``.
        label_smoothing: weight of the flipped pair, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``.
    """
    mean = pairs.averaged()
    return logistic(beta * (mean.chosen - mean.rejected) - simpo_gamma, label_smoothing)


@method(paper="arXiv:2405.14734", dial="simpo_gamma", neutral={"max_steps": 0})
class SimPO(PreferenceMethod):
    """Raises the chosen reply's mean log-probability over the rejected one's by a margin; needs no reference pass."""

    uses_reference: ClassVar[bool] = False
    compares = "means"
    beta: Annotated[float, Gt(0)] = 2.0
    simpo_gamma: Annotated[float, Ge(0)] = 1.0
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return simpo_loss(pairs, beta=self.beta, simpo_gamma=self.simpo_gamma, label_smoothing=self.label_smoothing)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * mean.chosen, self.beta * mean.rejected
