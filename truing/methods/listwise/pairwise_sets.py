"""Sets of pairs of a list."""

from __future__ import annotations

from typing import Literal

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.listwise._family import ListLogps, ListMethod
from truing.methods.listwise._terms import differences

Pairs = Literal["all", "best_with_others", "best_with_worst"]


def pairwise_sets_loss(
    lists: ListLogps, *, beta: float, pairs: Pairs, form: Literal["logistic", "hinge"]
) -> torch.Tensor:
    """The mean over some pairs of a list of a loss of their margin. Liu et al. 2024, arXiv:2402.01878.

    ``softplus(-(s_i - s_j))`` or ``max(0, 1 - (s_i - s_j))`` for ``s = beta h``, i scored above j. The gradient in
    ``s_i`` is ``-sigmoid(-(s_i - s_j))``, or -1 until the margin is 1, over the number of pairs; in ``s_j`` its
    opposite. RRHF (arXiv:2304.05302) ranks all pairs by a hinge too, but at a margin of 0, on likelihoods per token
    without a base, and beside imitating the best reply. A tie is no pair; where several replies are best, or worst,
    each of them is.

    Args:
        lists: log-probabilities of all replies under the policy and its base, each summed over tokens, nats.
        beta: pull towards the base, > 0, in 1/nat.
        pairs: which of the pairs that the scores order.
        form: of the loss.

    Returns:
        The loss of each list, ``(B,)``.
    """
    taken = lists.better
    if pairs != "all":
        taken = taken & lists.best[:, :, None]
    if pairs == "best_with_worst":
        taken = taken & lists.worst[:, None, :]
    margin = beta * differences(lists.ratio)
    each = F.softplus(-margin) if form == "logistic" else F.relu(1 - margin)
    return (each * taken).sum((1, 2)) / taken.sum((1, 2))


@method(paper="arXiv:2402.01878", dial="beta", neutral={"max_steps": 0})
class PairwiseSets(ListMethod):
    """Raises better replies of a list over worse ones, pair by pair.

    Attributes:
        pairs: all pairs of different scores, the best replies with all others, or the best with the worst.
        form: a logistic loss of the margin, as in DPO, or a hinge.
    """

    pairs: Pairs = "all"
    form: Literal["logistic", "hinge"] = "logistic"

    def loss(self, lists: ListLogps) -> torch.Tensor:
        return pairwise_sets_loss(lists, beta=self.beta, pairs=self.pairs, form=self.form)
