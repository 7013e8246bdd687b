"""AlphaPO: SimPO with a reward that bends."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import bent, logistic


def alphapo_loss(pairs: PairLogps, *, beta: float, simpo_gamma: float, alpha: float) -> torch.Tensor:
    """SimPO's loss on a bent reward of the mean log-probability. Gupta et al. 2025, arXiv:2501.03884.

    ``softplus(-(beta (r_w - r_l) - gamma))`` with ``r = (1 - p^-alpha) / alpha`` and ``p = exp(S / n)``, the geometric
    mean of a reply's token probabilities. The gradient is ``-beta w p_w^-alpha / n_w`` on the chosen sum and
    ``beta w p_l^-alpha / n_l`` on the rejected one, ``w`` the sigmoid of the softplus's argument: above 0, alpha acts
    most on unlikely replies. Beyond ``exp(30)`` a reward goes on along its tangent.

    Args:
        pairs: reply log-probabilities under the policy, each summed over tokens, ``(B,)``, nats, with lengths.
        beta: scale of the rewards, > 0.
        simpo_gamma: the wanted margin after scaling, >= 0.
        alpha: bend of the reward; 0 is SimPO.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    mean = pairs.averaged()
    return logistic(beta * (bent(mean.chosen, alpha) - bent(mean.rejected, alpha)) - simpo_gamma, 0)


@method(paper="arXiv:2501.03884", dial="alpha", neutral={"max_steps": 0})
class AlphaPO(PreferenceMethod):
    """SimPO whose reward falls faster, or slower, than the log-probability; needs no reference pass."""

    uses_reference: ClassVar[bool] = False
    compares = "means"
    beta: Annotated[float, Gt(0)] = 2.0
    simpo_gamma: Annotated[float, Ge(0)] = 1.0
    alpha: float = 0.25

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return alphapo_loss(pairs, beta=self.beta, simpo_gamma=self.simpo_gamma, alpha=self.alpha)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * bent(mean.chosen, self.alpha), self.beta * bent(mean.rejected, self.alpha)
