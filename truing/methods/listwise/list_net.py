"""ListNet: the distribution over the replies of a list."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod, ScoreRange


def list_net_loss(lists: ListLogps, labels: torch.Tensor, *, beta: float, temperature: float) -> torch.Tensor:
    """Cross entropy from the labels' softmax to that of the log-ratios. Cao et al. 2007, doi:10.1145/1273496.1273513.

    ``-sum_i softmax(labels / temperature)_i log softmax(beta h)_i``, the top-1 form. The gradient in ``s_i = beta h_i``
    is ``softmax(s)_i - softmax(labels / temperature)_i``. As the temperature falls, the best reply alone counts:
    InfoNCE.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        labels: ``(B, K)`` in [0, 1].
        beta: pull towards the base, > 0, in 1/nat.
        temperature: of the labels, > 0.

    Returns:
        The loss of each list, ``(B,)``.
    """
    away = ~lists.there
    wanted = (labels / temperature).masked_fill(away, -torch.inf).softmax(1)
    found = (beta * lists.ratio).masked_fill(away, -torch.inf).log_softmax(1)
    return -(wanted * found.masked_fill(away, 0)).sum(1)


@method(paper="Cao et al. 2007, doi:10.1145/1273496.1273513", dial="beta", neutral={"max_steps": 0})
class ListNet(ListMethod):
    """Shares the list out among its replies as their scores do.

    Attributes:
        temperature: of the scores, once they are between 0 and 1; lower counts on the best reply more.
        score_range: the scores that count as 0 and as 1; empty: the worst and the best of each list.
    """

    temperature: Annotated[float, Gt(0)] = 0.5
    score_range: ScoreRange = ()

    def loss(self, lists: ListLogps) -> torch.Tensor:
        labels = lists.labels(self.score_range)
        return list_net_loss(lists, labels, beta=self.beta, temperature=self.temperature)
