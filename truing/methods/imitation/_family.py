"""Imitation: a member writes one loss over the log-probabilities of a demonstration's tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import TreeScores
from truing.engine.fit import Objective, Training, fit


@dataclass(frozen=True, kw_only=True)
class ImitationMethod(Training, Method[Editable, Editable]):
    """Trains on demonstrations, averaged over the tokens of a step."""

    reads: ClassVar[frozenset[str]] = frozenset({"demos"})

    @abstractmethod
    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """The loss of each target token from its log-probability, ``(T,)`` nats to ``(T,)``."""

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations", "Give 'data.demos'.")
        trees = base.encode_many([demo.prompt for demo in evidence.demos], [(demo.reply,) for demo in evidence.demos])
        # A mean over the tokens of the whole step, whatever the cut into micro-batches.
        weights = [float(len(tree.replies[0])) for tree in trees]
        return fit(base, trees, Objective(weights, self._score), self, run)

    def _score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        zeros = scores.tokens.new_zeros(len(scores.counts))
        losses = zeros.index_add(0, scores.owner, self.loss(scores.tokens))
        return losses, {"logps/chosen": scores.sums.detach(), "entropy_bound": losses.detach() / scores.counts}
