"""Ordinal preference optimisation, since renamed permutative preference alignment: NDCG by a smooth sort."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod, ScoreRange
from truing.methods.listwise._terms import differences, discounts, gains, most_dcg, places

TOLERANCE = 1e-6
"""How far from 1 the sums of rows and columns may be where scaling ends."""


def opo_loss(
    lists: ListLogps, labels: torch.Tensor, *, beta: float, temperature: float, iterations: int
) -> torch.Tensor:
    """Minus the discounted gain of a list in a smooth order of itself. Zhao et al. 2024, arXiv:2410.04346.

    ``-sum_i (P G)_i / log2(1 + i) / max DCG`` with ``G = 2^label - 1`` and ``P`` the smooth permutation that sorts
    ``s = beta h``, made doubly stochastic. Without that a reply may stand in more places than one, and the gain
    pass the exact one. The gradient in ``P_ij`` is ``-G_j / log2(1 + i) / max DCG``, and goes on through the scaling.
    As the temperature falls it becomes minus the NDCG itself. It is NeuralNDCG (Pobrotyn and Bialobrzeski 2021,
    arXiv:2102.07831) on log-ratios.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        labels: ``(B, K)`` in [0, 1].
        beta: pull towards the base, > 0, in 1/nat.
        temperature: of the sort, > 0.
        iterations: of the scaling at the most; 0 leaves the columns as they are.

    Returns:
        The loss of each list, ``(B,)``, about -1 to 0.
    """
    gain = gains(labels).double()
    order = sinkhorn(neural_sort(lists, beta=beta, temperature=temperature), iterations).exp()
    sorted_gain = (order * gain[:, None, :]).sum(2)
    return (-(sorted_gain * discounts(gain)).sum(1) / most_dcg(gain)).to(lists.policy.dtype)


def neural_sort(lists: ListLogps, *, beta: float, temperature: float) -> torch.Tensor:
    """The smooth permutation that sorts the log-ratios, highest first, as logarithms in double precision.

    Row i of a list of n is ``softmax(((n + 1 - 2 i) s_j - sum_k |s_j - s_k|) / temperature)`` over j. Grover et al.
    2019, arXiv:1903.08850. The distance of level replies is 0 with a slope of 0, which rounding does not decide.

    Returns:
        ``(B, K, K)``: places by replies. Places beyond a list's end hold the replies that are not there.
    """
    strength, there = beta * lists.ratio.double(), lists.there
    apart = differences(strength).abs().masked_fill(places(lists).level | ~lists.both, 0).sum(2)
    rank = torch.arange(1, there.shape[1] + 1, device=there.device)
    turn = (there.sum(1, keepdim=True) + 1 - 2 * rank)[:, :, None]
    logits = (turn * strength[:, None, :] - apart[:, None, :]) / temperature
    beyond = torch.eye(there.shape[1], dtype=torch.bool, device=there.device) & ~there[:, None, :]
    allowed = lists.both | beyond
    return logits.masked_fill(beyond, 0).masked_fill(~allowed, -torch.inf).log_softmax(2)


def sinkhorn(order: torch.Tensor, iterations: int) -> torch.Tensor:
    """Columns and rows scaled in turn until both sum to 1, ``(B, K, K)`` logarithms.

    Each matrix stops where it is within the tolerance itself, so no other matrix decides how far it is scaled.
    """
    open_ = torch.ones_like(order[:, 0, 0], dtype=torch.bool)
    for _ in range(iterations):
        open_ = open_ & ((order.detach().logsumexp(1).exp() - 1).abs().amax(1) > TOLERANCE)
        if not bool(open_.any()):
            break
        scaled = order - order.logsumexp(1, keepdim=True)
        scaled = scaled - scaled.logsumexp(2, keepdim=True)
        order = torch.where(open_[:, None, None], scaled, order)
    return order


@method(paper="arXiv:2410.04346", dial="beta", neutral={"max_steps": 0})
class OPO(ListMethod):
    """Raises the discounted gain of a list in a smooth order of itself; also known as permutative preference alignment.

    Attributes:
        temperature: of the sort; lower is nearer to the true gain, and pulls only where replies are close.
        iterations: of the scaling that makes the sort a doubly stochastic matrix, at the most.
        score_range: the scores that count as 0 and as 1; empty: the worst and the best of each list.
    """

    temperature: Annotated[float, Gt(0)] = 1.0
    iterations: Annotated[int, Ge(0)] = 50
    score_range: ScoreRange = ()

    def loss(self, lists: ListLogps) -> torch.Tensor:
        labels = lists.labels(self.score_range)
        return opo_loss(lists, labels, beta=self.beta, temperature=self.temperature, iterations=self.iterations)
