"""Listwise objectives: a member writes one loss over the log-probabilities of all replies to a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from typing import Annotated, ClassVar

from annotated_types import Gt, MaxLen

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence, Ranked
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.data.reasons import Reason
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.methods.listwise._lists import ListLogps as ListLogps
from truing.methods.listwise._lists import pad
from truing.methods.listwise._terms import ndcg, places

ScoreRange = Annotated[tuple[float, ...], MaxLen(2)]
"""The scores that count as 0 and as 1; empty: the worst and the best of each list."""


@dataclass(frozen=True, kw_only=True)
class ListMethod(Training, Method[Editable, Editable]):
    """Trains on lists of replies, of any lengths together; the base is the reference.

    Attributes:
        beta: pull towards the base, > 0, in 1/nat.
    """

    beta: Annotated[float, Gt(0)] = 0.1

    reads: ClassVar[frozenset[str]] = frozenset({"lists"})

    @abstractmethod
    def loss(self, lists: ListLogps) -> torch.Tensor:
        """The loss of each list, ``(B,)``."""

    @property
    def scale(self) -> tuple[float, ...]:
        """What scores count as 0 and 1, where the member says so."""
        return tuple(getattr(self, "score_range", ()))

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        given = evidence.lists
        if not given:
            raise bad(self.card.name, "has no lists", "Give 'data.lists', or put synthesize/ranked before it.")
        if faults := list_faults(given, self.scale, self.card.name):
            raise InputError(*faults)
        trees = base.encode_many([item.prompt for item in given], [item.replies for item in given])
        tokens = reference_logprobs(base, trees, run, self.precision)
        lists = _ListObjective(self, _by_list([piece.double().sum() for piece in tokens], trees), given)
        return fit(base, trees, Objective([1.0] * len(trees), lists.score), self, run)


def list_faults(lists: Sequence[Ranked], scale: Sequence[float], place: str) -> list[Fault]:
    """What is wrong with lists that did not come through the data contract, each reason once."""
    if scale and (len(scale) == 1 or scale[0] >= scale[1]):
        return [Fault(place, f"score_range = {list(scale)}", "Give the scores that count as 0 and as 1, e.g. [0, 10].")]
    found = [(_trouble(item, scale), number) for number, item in enumerate(lists)]
    counts = Counter(reason for reason, _ in found if reason)
    first = dict(reversed(found))
    return [Fault(place, f"{n} of {len(lists)} lists: {why} (first: list {first[why]})") for why, n in counts.items()]


def _trouble(item: Ranked, scale: Sequence[float]) -> str:
    if len(item.replies) < 2:
        return Reason.FEW
    if len(item.replies) != len(item.scores):
        return Reason.UNEVEN
    if not all(map(isfinite, item.scores)):
        return Reason.NOT_A_NUMBER
    if len(set(item.scores)) == 1:
        return Reason.TIED
    outside = scale and not all(scale[0] <= score <= scale[1] for score in item.scores)
    return "a score beyond score_range" if outside else ""


def _by_list(values: Sequence[torch.Tensor], trees: Sequence[Tree]) -> list[torch.Tensor]:
    """One number a reply as one tensor a tree."""
    sizes = [len(tree.replies) for tree in trees]
    starts = accumulate(sizes, initial=0)
    return [torch.stack(list(values[start : start + size])) for start, size in zip(starts, sizes, strict=False)]


@dataclass(frozen=True)
class _ListObjective:
    """The member's loss over the scores of a micro-batch, with the metrics of pairs."""

    method: ListMethod
    bases: Sequence[torch.Tensor]  # N times (K_i,) nats, float64
    given: Sequence[Ranked]

    def lists(self, scores: TreeScores, numbers: Sequence[int]) -> ListLogps:
        """The lists with these numbers, with their graph."""
        sums, judged = scores.sums, [torch.tensor(self.given[i].scores, dtype=torch.float64) for i in numbers]
        sizes = [len(part) for part in judged]
        policy, there = pad(sums, sizes)
        base, _ = pad(torch.cat([self.bases[i] for i in numbers]).to(sums), sizes)
        said, _ = pad(torch.cat(judged).to(sums.device), sizes)
        return ListLogps(policy, base, said, there, pad(scores.counts, sizes)[0])

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses and metrics of the trees with these numbers, each ``(B,)``."""
        lists = self.lists(scores, numbers)
        return self.method.loss(lists), list_metrics(lists, self.method.beta, self.method.scale)


def list_metrics(lists: ListLogps, beta: float, scale: tuple[float, ...]) -> Mapping[str, torch.Tensor]:
    """What is logged, each ``(B,)``: as of pairs, the best replies of a list being chosen and the worst rejected.

    ``rewards/accuracies`` is the share of all ordered pairs that the log-ratios order rightly, ``ndcg`` how good their
    order is as a whole; level replies count as in no order.
    """
    ratio, policy, level = lists.ratio.detach(), lists.policy.detach(), places(lists).level
    above = (ratio[:, :, None] > ratio[:, None, :]).to(ratio)
    right = torch.where(level, 0.5, above)
    more = torch.sign((lists.tokens[:, :, None] - lists.tokens[:, None, :]).to(ratio))
    pairs, chosen, rejected = lists.better.to(ratio), lists.best.to(ratio), lists.worst.to(ratio)

    def mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (values * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)

    rewards = mean(beta * ratio, chosen), mean(beta * ratio, rejected)
    return {
        "rewards/chosen": rewards[0],
        "rewards/rejected": rewards[1],
        "rewards/margins": rewards[0] - rewards[1],
        "rewards/accuracies": mean(right, pairs),
        "ndcg": ndcg(lists, scale),
        "logps/chosen": mean(policy, chosen),
        "logps/rejected": mean(policy, rejected),
        "displacement/chosen": mean(ratio, chosen),
        "displacement/rejected": mean(ratio, rejected),
        "lengths/chosen": mean(lists.tokens.to(ratio), chosen),
        "lengths/rejected": mean(lists.tokens.to(ratio), rejected),
        "lengths/longer_rewarded": mean((1 + (2 * right - 1) * more) / 2, pairs),
        "lengths/longer_chosen": mean((1 + more) / 2, pairs),
    }
