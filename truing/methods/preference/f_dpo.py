"""DPO under another divergence from the base."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Lt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import bent, logistic


def f_dpo_loss(
    pairs: PairLogps,
    *,
    beta: float,
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"],
    alpha: float,
) -> torch.Tensor:
    """DPO's loss with the derivative of a divergence for the logarithm. Wang et al. 2023, arXiv:2309.16240.

    ``softplus(-beta (g(h_w) - g(h_l)))`` with ``g(h) = f'(exp(h))`` up to a constant: ``h`` for the reverse KL,
    ``-exp(-h)`` for the forward KL, ``log(2 sigmoid(h))`` for Jensen-Shannon, ``(1 - exp(-alpha h)) / alpha`` for the
    alpha-divergence. The gradient is ``-beta w g'(h_w)`` on the chosen sum and ``beta w g'(h_l)`` on the rejected one,
    ``w`` the sigmoid of the softplus's argument, ``g'`` = 1, ``exp(-h)``, ``sigmoid(-h)``, ``exp(-alpha h)``. Beyond
    ``exp(30)`` it goes on along its tangent.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        beta: pull towards the base, > 0.
        f_divergence_type: which divergence.
        alpha: the paper's, in (0, 1): towards 0 the reverse KL, towards 1 the forward. TRL's
            ``f_alpha_divergence_coef`` is ``1 - alpha`` in 1.16 and was ``alpha`` in 0.12; they agree at the default
            0.5.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    if f_divergence_type == "js_divergence":
        chosen, rejected = F.logsigmoid(pairs.chosen_ratio), F.logsigmoid(pairs.rejected_ratio)
    else:
        bend = {"reverse_kl": 0.0, "forward_kl": 1.0, "alpha_divergence": alpha}[f_divergence_type]
        chosen, rejected = bent(pairs.chosen_ratio, bend), bent(pairs.rejected_ratio, bend)
    return logistic(beta * (chosen - rejected), 0)


@method(paper="arXiv:2309.16240", dial="beta", neutral={"max_steps": 0})
class FDPO(PreferenceMethod):
    """DPO that keeps to its base by a divergence of choice; the default is between mode seeking and covering.

    Attributes:
        alpha: of the alpha-divergence; the others ignore it.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "js_divergence"
    alpha: Annotated[float, Gt(0), Lt(1)] = 0.5

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return f_dpo_loss(pairs, beta=self.beta, f_divergence_type=self.f_divergence_type, alpha=self.alpha)
