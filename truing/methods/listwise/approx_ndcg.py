"""ApproxNDCG: a gain by ranks that are sums of sigmoids."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod, ScoreRange
from truing.methods.listwise._terms import differences, gains, most_dcg


def approx_ndcg_loss(lists: ListLogps, labels: torch.Tensor, *, beta: float, alpha: float) -> torch.Tensor:
    """Minus the normalised discounted gain at smooth ranks. Qin, Liu and Li 2010, doi:10.1007/s10791-009-9124-x.

    ``-sum_i G_i / log2(1 + t_i) / max DCG`` with ``t_i = 1 + sum_{j != i} sigmoid(alpha (s_j - s_i))``, ``s = beta h``
    and ``G = 2^label - 1``. The gradient in ``t_i`` is ``G_i log 2 / ((1 + t_i) log(1 + t_i)^2)`` over the largest DCG,
    which is that of the labels' own order, however they are written down. As alpha grows it becomes minus the NDCG
    itself.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        labels: ``(B, K)`` in [0, 1].
        beta: pull towards the base, > 0, in 1/nat.
        alpha: how steep the sigmoids are, > 0.

    Returns:
        The loss of each list, ``(B,)`` in [-1, 0).
    """
    behind = torch.sigmoid(-alpha * beta * differences(lists.ratio)) * lists.there[:, None, :]
    rank = 0.5 + behind.sum(2)  # a reply is half behind itself
    gain = gains(labels)
    return -(gain / torch.log2(1 + rank)).sum(1) / most_dcg(gain)


@method(paper="Qin, Liu and Li 2010, doi:10.1007/s10791-009-9124-x", dial="beta", neutral={"max_steps": 0})
class ApproxNDCG(ListMethod):
    """Raises the discounted gain of the order that the policy gives a list.

    Attributes:
        alpha: how steeply a rank changes where two replies pass each other; more is nearer to the true gain, and pulls
            only where they are close.
        score_range: the scores that count as 0 and as 1; empty: the worst and the best of each list.
    """

    alpha: Annotated[float, Gt(0)] = 25.0
    score_range: ScoreRange = ()

    def loss(self, lists: ListLogps) -> torch.Tensor:
        return approx_ndcg_loss(lists, lists.labels(self.score_range), beta=self.beta, alpha=self.alpha)
