"""Preference objectives: a member writes one loss over the log-probabilities of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable, Tree, TreeScores, Workbench
from truing.core.run import Run
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.methods.preference._diagnose import entangled, pair_metrics, ties


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of ``B`` pairs, each reply's summed over its tokens, nats.

    Attributes:
        chosen, rejected: ``(B,)`` under the policy that is trained, with gradient.
        ref_chosen, ref_rejected: ``(B,)`` under its base.
        chosen_tokens, rejected_tokens: ``(B,)`` lengths, for losses that average; None where they are not known.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_tokens: torch.Tensor | None = None
    rejected_tokens: torch.Tensor | None = None

    @property
    def margin(self) -> torch.Tensor:
        """How much further than its base the policy prefers the chosen reply, ``(B,)``, nats."""
        return (self.chosen - self.ref_chosen) - (self.rejected - self.ref_rejected)


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(Training, Method[Editable, Editable]):
    """Trains on pairs; the base is the reference.

    Attributes:
        entanglement: which gradients tell whether a step will raise the chosen reply, measured on every eighth pair:
            those of the output projection, which cost next to nothing, or of every weight that is trained.
    """

    entanglement: Literal["off", "last_layer", "exact"] = "last_layer"

    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})

    @abstractmethod
    def loss(self, pairs: PairLogps) -> torch.Tensor:
        """The loss of each pair, ``(B,)``."""

    @property
    def reward_scale(self) -> float:
        """What turns a log-ratio into the implicit reward that is logged, 1/nat."""
        return float(getattr(self, "beta", 1.0))

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        if not evidence.pairs:
            raise bad(self.card.name, "has no pairs", "Give 'data.pairs', or put synthesize/best_and_worst before it.")
        given = evidence.pairs
        trees = base.encode_many([p.prompt for p in given], [(p.chosen, p.rejected) for p in given])
        reference = reference_logprobs(base, trees, run, self.precision)
        sums = torch.stack([tokens.double().sum() for tokens in reference]).float().view(-1, 2)
        pairs = _PairObjective(self, sums, trees)
        return fit(base, trees, Objective([1.0] * len(trees), pairs.score, pairs.inspect), self, run)


@dataclass(frozen=True)
class _PairObjective:
    """The member's loss over the scores of a micro-batch, with TRL's metrics."""

    method: PreferenceMethod
    reference: torch.Tensor  # (N, 2) nats
    trees: Sequence[Tree]  # N of two replies

    def pairs(self, scores: TreeScores, numbers: Sequence[int]) -> PairLogps:
        """The pairs with these numbers, with their graph."""
        sums, counts = scores.sums.view(-1, 2), scores.counts.view(-1, 2)
        reference = self.reference[list(numbers)].to(sums)
        return PairLogps(sums[:, 0], sums[:, 1], reference[:, 0], reference[:, 1], counts[:, 0], counts[:, 1])

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses and metrics of the trees with these numbers, each ``(B,)``."""
        pairs, scale = self.pairs(scores, numbers), self.method.reward_scale
        chosen = scale * (pairs.chosen.detach() - pairs.ref_chosen)
        rejected = scale * (pairs.rejected.detach() - pairs.ref_rejected)
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            # A tie is half right: before the first update every pair is one.
            "rewards/accuracies": torch.where(ties(pairs), 0.5, (chosen > rejected).to(chosen)),
            "logps/chosen": pairs.chosen.detach(),
            "logps/rejected": pairs.rejected.detach(),
            **pair_metrics(self.method.loss, pairs),
        }
        return self.method.loss(pairs), metrics

    def inspect(self, bench: Workbench, scores: TreeScores, numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        """Gradient entanglement of some of the trees with these numbers."""
        trees, pairs = [self.trees[i] for i in numbers], self.pairs(scores, numbers)
        return entangled(self.method.entanglement, self.method.loss, bench, scores, trees, pairs, numbers)
