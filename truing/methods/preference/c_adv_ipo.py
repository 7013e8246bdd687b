"""Adversarial training in the space of embeddings, with identity preference optimisation."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._attacked import Attacked
from truing.methods.preference._family import PairLogps, PreferenceMethod


def c_adv_ipo_loss(pairs: PairLogps, *, beta: float, chosen_cut: float, rejected_cut: float) -> torch.Tensor:
    """IPO of means over tokens, which leaves settled tokens alone. Xhonneux et al. 2024, arXiv:2405.15589.

    ``(u - 1 / (2 beta))^2`` with ``u = (S_w - S_base,w) / n_w - (S_l - S_base,l) / n_l``, policy on the attacked prompt
    and base on the clean one. Tokens of the rejected reply with ``log p < rejected_cut`` count as 0 nats, and those of
    the chosen reply above ``chosen_cut`` too; the base's stay, and so do the lengths. The gradient is
    ``2 (u - 1 / (2 beta)) / n_w`` on each of the chosen reply's tokens and ``-2 (u - 1 / (2 beta)) / n_l`` on the
    rejected one's, 0 on those that are cut. A cut token raises the rejected mean, so ``u`` falls where tokens are cut.

    Args:
        pairs: log-probabilities by token, nats, with lengths.
        beta: sets the target of ``1 / (2 beta)`` nats a token, > 0.
        chosen_cut: nats, <= 0; 0 cuts nothing.
        rejected_cut: nats, <= 0.

    Returns:
        The loss of each pair, ``(B,)``, nats squared.
    """
    tokens, base = pairs.by_token, pairs.averaged()
    chosen = tokens.owner % 2 == 0
    settled = torch.where(chosen, tokens.policy > chosen_cut, tokens.policy < rejected_cut)
    mean = tokens.sums(tokens.policy.masked_fill(settled, 0.0)) / tokens.counts.clamp_min(1)
    margin = (mean[:, 0] - base.ref_chosen) - (mean[:, 1] - base.ref_rejected)
    return (margin - 1 / (2 * beta)).square()


@method(paper="arXiv:2405.15589", dial="attack_epsilon", neutral={"max_steps": 0})
class CAdvIPO(Attacked, PreferenceMethod):
    """IPO on prompts under attack: the safe answer is preferred even where the prompt is shifted towards the other.

    Chosen replies are the safe answers, rejected ones the harmful. At every pass the prompts are attacked with the
    weights as they are, which costs ``attack_steps`` more passes forward and back. Needs no utility data; fixed
    refusals as chosen replies make it refuse too much.

    Attributes:
        beta: the target is ``1 / (2 beta)`` nats a token.
        chosen_cut: tokens of the chosen reply with a log-probability above it no longer pull; 0 cuts nothing.
        rejected_cut: tokens of the rejected reply with a log-probability below it no longer pull.
    """

    compares = "means"
    beta: Annotated[float, Gt(0)] = 0.25
    chosen_cut: Annotated[float, Le(0)] = 0.0
    rejected_cut: Annotated[float, Le(0)] = -5.0

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return c_adv_ipo_loss(pairs, beta=self.beta, chosen_cut=self.chosen_cut, rejected_cut=self.rejected_cut)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        mean = pairs.averaged()
        return self.beta * mean.chosen_ratio, self.beta * mean.rejected_ratio
