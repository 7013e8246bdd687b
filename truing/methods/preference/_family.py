"""Preference objectives: a member writes one loss over the log-probabilities of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable, TreeScores
from truing.core.run import Run
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit


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
    """Trains on pairs; the base is the reference."""

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
        pairs = evidence.pairs
        trees = base.encode_many([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs])
        reference = reference_logprobs(base, trees, run, self.precision)
        sums = torch.stack([tokens.double().sum() for tokens in reference]).float().view(-1, 2)
        objective = Objective([1.0] * len(trees), _PairObjective(self, sums).score)
        return fit(base, trees, objective, self, run)


@dataclass(frozen=True)
class _PairObjective:
    """The member's loss over the scores of a micro-batch, with TRL's metrics."""

    method: PreferenceMethod
    reference: torch.Tensor  # (N, 2) nats

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses and metrics of the trees with these numbers, each ``(B,)``."""
        sums, counts = scores.sums.view(-1, 2), scores.counts.view(-1, 2)
        reference = self.reference[list(numbers)].to(sums)
        pairs = PairLogps(sums[:, 0], sums[:, 1], reference[:, 0], reference[:, 1], counts[:, 0], counts[:, 1])
        rounding = 1e-6 * sums.detach().abs().sum(1)
        ties = pairs.margin.detach().abs() <= rounding
        rewards = self.method.reward_scale * (sums.detach() - reference)
        metrics = {
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/margins": rewards[:, 0] - rewards[:, 1],
            # A tie is half right: before the first update every pair is one.
            "rewards/accuracies": torch.where(ties, 0.5, (rewards[:, 0] > rewards[:, 1]).to(rewards)),
            "logps/chosen": sums[:, 0].detach(),
            "logps/rejected": sums[:, 1].detach(),
        }
        return self.method.loss(pairs), metrics
