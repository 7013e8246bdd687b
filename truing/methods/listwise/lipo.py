"""LiPO-lambda: pairs that count by what exchanging them would change."""

from __future__ import annotations

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod, ScoreRange
from truing.methods.listwise._terms import Places, differences, gains, places


def lipo_loss(lists: ListLogps, labels: torch.Tensor, *, beta: float) -> torch.Tensor:
    """DPO over all ordered pairs, weighed by LambdaRank. Liu et al. 2024, arXiv:2402.01878.

    ``sum over label_i > label_j of w_ij softplus(-(s_i - s_j))`` for ``s = beta h``, with
    ``w_ij = |G_i - G_j| |1 / log2(1 + rank_i) - 1 / log2(1 + rank_j)|`` and ``G = 2^label - 1``; ranks are by the
    current log-ratios and have no gradient. The gradient in ``s_i`` is ``-w_ij sigmoid(-(s_i - s_j))``, summed over j;
    in ``s_j`` its opposite. A tie of labels is no pair. Replies whose log-ratios are level, as all are before the first
    update, weigh by the mean over the orders that they could stand in. It is a sum, as in the paper: longer lists pull
    more.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        labels: ``(B, K)`` in [0, 1].
        beta: pull towards the base, > 0, in 1/nat.

    Returns:
        The loss of each list, ``(B,)``.
    """
    each = F.softplus(-beta * differences(lists.ratio))
    return (lambda_weights(gains(labels), places(lists)) * each * lists.better).sum((1, 2))


def lambda_weights(gain: torch.Tensor, found: Places) -> torch.Tensor:
    """How much the discounted gain of a list would change if two replies exchanged their places, ``(B, K, K)``."""
    distance = torch.where(found.level, found.apart[:, :, None], differences(found.discount).abs())
    return differences(gain).abs() * distance


@method(paper="arXiv:2402.01878", dial="beta", neutral={"max_steps": 0})
class LiPO(ListMethod):
    """Raises better replies over worse ones, the more so the more their order matters to the list's gain.

    Attributes:
        score_range: the scores that count as 0 and as 1; empty: the worst and the best of each list.
    """

    score_range: ScoreRange = ()

    def loss(self, lists: ListLogps) -> torch.Tensor:
        return lipo_loss(lists, lists.labels(self.score_range), beta=self.beta)
