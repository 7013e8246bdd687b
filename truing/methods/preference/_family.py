"""Preference objectives: a member writes one loss over the log-probabilities of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import F, torch
from truing.core.method import Method
from truing.core.policy import Editable, Tree, TreeScores
from truing.core.run import Run
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of ``B`` pairs, each reply's summed over its tokens, nats.

    Attributes:
        chosen, rejected: ``(B,)`` under the policy that is trained, with gradient.
        ref_chosen, ref_rejected: ``(B,)`` under its base; NaN where a method says that it uses none, so that a loss
            that reads them all the same is not finite.
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
        return self.chosen_ratio - self.rejected_ratio

    @property
    def chosen_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on the chosen reply, ``(B,)``, nats."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on the rejected reply, ``(B,)``, nats."""
        return self.rejected - self.ref_rejected

    def averaged(self) -> PairLogps:
        """The same pairs with each reply's numbers divided by its own length: nats a token.

        Raises:
            ValueError: the lengths are not known.
        """
        if self.chosen_tokens is None or self.rejected_tokens is None:
            raise ValueError("a mean over tokens needs the replies' lengths")
        left, right = self.chosen_tokens.clamp_min(1), self.rejected_tokens.clamp_min(1)  # 0 / 1 for no token at all
        return replace(
            self,
            chosen=self.chosen / left,
            rejected=self.rejected / right,
            ref_chosen=self.ref_chosen / left,
            ref_rejected=self.ref_rejected / right,
        )


def logistic(logits: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Minus log sigmoid of ``logits``, and of their opposite by a share of ``label_smoothing``; never overflows."""
    if label_smoothing == 0:
        return F.softplus(-logits)
    return (1 - label_smoothing) * F.softplus(-logits) + label_smoothing * F.softplus(logits)


def chosen_nll(pairs: PairLogps) -> torch.Tensor:
    """Negative log-likelihood of the chosen reply, a mean over its own tokens: ``(B,)``, nats a token."""
    return -pairs.averaged().chosen


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(Training, Method[Editable, Editable]):
    """Trains on pairs; the base is the reference.

    Attributes:
        uses_reference: whether the loss reads the base's log-probabilities; where it does not, none are computed.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})
    uses_reference: ClassVar[bool] = True

    @abstractmethod
    def loss(self, pairs: PairLogps) -> torch.Tensor:
        """The loss of each pair, ``(B,)``."""

    @property
    def reward_scale(self) -> float:
        """What turns a log-ratio into the implicit reward that is logged, 1/nat."""
        return float(getattr(self, "beta", 1.0))

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        """The implicit rewards that are logged, ``(B,)`` for each reply: scaled log-ratios, or log-probabilities."""
        if self.uses_reference:
            return self.reward_scale * pairs.chosen_ratio, self.reward_scale * pairs.rejected_ratio
        return self.reward_scale * pairs.chosen, self.reward_scale * pairs.rejected

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        if not evidence.pairs:
            raise bad(self.card.name, "has no pairs", "Give 'data.pairs', or put synthesize/best_and_worst before it.")
        pairs = evidence.pairs
        trees = base.encode_many([p.prompt for p in pairs], [(p.chosen, p.rejected) for p in pairs])
        objective = Objective([1.0] * len(trees), _PairObjective(self, self._reference(base, trees, run)).score)
        return fit(base, trees, objective, self, run)

    def _reference(self, base: Editable, trees: Sequence[Tree], run: Run) -> torch.Tensor:
        """Summed log-probabilities of the replies under the base, ``(N, 2)``, nats."""
        if not self.uses_reference:
            return torch.full((len(trees), 2), torch.nan)
        sums = [tokens.double().sum() for tokens in reference_logprobs(base, trees, run)]
        return torch.stack(sums).float().view(-1, 2)


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
        chosen, rejected = (rewards.detach() for rewards in self.method.rewards(pairs))
        # A tie is half right: before the first update every pair is one, but for rounding.
        rounding = 1e-6 * self.method.reward_scale * sums.detach().abs().sum(1) * self.method.uses_reference
        ties = (chosen - rejected).abs() <= rounding
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": torch.where(ties, 0.5, (chosen > rejected).to(chosen)),
            "logps/chosen": pairs.chosen.detach(),
            "logps/rejected": pairs.rejected.detach(),
        }
        return self.method.loss(pairs), metrics
