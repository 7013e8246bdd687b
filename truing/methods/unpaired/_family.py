"""Unpaired objectives: a member writes one loss over the log-probabilities of single replies that were rated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.methods.unpaired._rated import RatedLogps as RatedLogps
from truing.methods.unpaired._rated import RunningMean, mismatched


@dataclass(frozen=True, kw_only=True)
class UnpairedMethod(Training, Method[Editable, Editable]):
    """Trains on replies that were rated one by one; the base is the reference.

    Attributes:
        threshold: a reply is desirable where its rating is above this.
    """

    threshold: float = 0.5

    reads: ClassVar[frozenset[str]] = frozenset({"ratings"})
    needs_both: ClassVar[bool] = True
    """Whether it means nothing without desirable and undesirable replies both."""
    sees_step: ClassVar[bool] = False
    """Whether the loss of an example depends on the others of its step: then :meth:`of_step` is asked first."""
    sees_mismatched: ClassVar[bool] = False
    """Whether :meth:`of_step` is shown each prompt with the reply of another example, and not with its own."""

    @abstractmethod
    def loss(self, rated: RatedLogps) -> torch.Tensor:
        """The loss of each example, ``(B,)``."""

    def of_step(self, step: RatedLogps) -> torch.Tensor:
        """What the loss must know of each example of a whole step, ``(B, ...)``, from log-ratios without gradient."""
        raise NotImplementedError

    def running(self) -> RunningMean | None:
        """What is kept of the rewards from step to step; None for nothing."""
        return None

    def weigh(self, base: Editable, trees: Sequence[Tree], desirable: torch.Tensor, run: Run) -> torch.Tensor | None:
        """What the loss weighs each example by, ``(N,)``; None for 1."""
        return None

    def step_metrics(self, rated: RatedLogps) -> Mapping[str, torch.Tensor]:
        """What is logged beside the rewards, each ``(B,)``."""
        return {}

    @property
    def reward_scale(self) -> float:
        """What turns a log-ratio into the implicit reward that is logged, 1/nat."""
        return float(getattr(self, "beta", 1.0))

    def refuse(self, trees: Sequence[Tree], desirable: Sequence[bool]) -> None:
        """Refuse ratings that the method can do nothing with.

        Raises:
            InputError: they all lie on one side of the threshold, where both sides are needed.
        """
        if self.needs_both and len(set(desirable)) == 1:
            side = "above" if desirable[0] else "at or below"
            fact = f"every rating is {side} threshold = {self.threshold:g}, and it tells the two sides apart"
            raise bad(self.card.name, fact, "Set threshold between good and bad ratings, or add the other side.")

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        given = evidence.ratings
        if not given:
            raise bad(self.card.name, "has no ratings", "Give 'data.ratings'.")
        trees = base.encode_many([rating.prompt for rating in given], [(rating.reply,) for rating in given])
        above = [rating.value > self.threshold for rating in given]
        self.refuse(trees, above)
        desirable = torch.tensor(above)
        reference = _sums(reference_logprobs(base, trees, run, self.precision))
        weight = self.weigh(base, trees, desirable, run)
        rated = _RatedObjective(self, base, trees, reference, desirable, weight, self.running())
        objective = Objective(
            [1.0] * len(trees),
            rated.score,
            survey=rated.survey if self.sees_step else None,
            beside=rated.beside if self.sees_mismatched else None,
            derive=margins,
            companion=rated.running,
        )
        return fit(base, trees, objective, self, run)


@dataclass(frozen=True)
class _RatedObjective:
    """The member's loss over the scores of a micro-batch, with the metrics of TRL's KTO."""

    method: UnpairedMethod
    base: Editable
    trees: Sequence[Tree]  # N of one reply
    reference: torch.Tensor  # (N,) float64
    desirable: torch.Tensor  # (N,) bool
    weight: torch.Tensor | None  # (N,)
    running: RunningMean | None
    of_step: dict[int, torch.Tensor] = field(default_factory=dict)

    def beside(self, members: Sequence[int]) -> list[Tree]:
        """What the survey is shown of a step in place of its examples."""
        return mismatched(self.trees, members)

    def survey(self, scores: TreeScores, numbers: Sequence[int]) -> None:
        """Keep what the member says of a whole step."""
        step = self.rated(scores, numbers)
        if self.method.sees_mismatched:
            # Who stands beside whom changes from epoch to epoch, so the base is asked now, and nothing is kept of it.
            sums = _sums(reference_logprobs(self.base, self.beside(numbers), Run(), self.method.precision))
            step = replace(step, base=sums.to(step.policy))
        said = self.method.of_step(step)
        self.of_step.clear()
        self.of_step.update(zip(numbers, said, strict=True))

    def rated(self, scores: TreeScores, numbers: Sequence[int]) -> RatedLogps:
        """The examples with these numbers, with their graph."""
        policy, at = scores.sums, torch.tensor(numbers)
        return RatedLogps(
            policy,
            self.reference[at].to(policy),
            self.desirable[at].to(policy.device),
            None if self.weight is None else self.weight[at].to(policy),
            None,
            None if self.running is None else self.running.mean.to(policy),
        )

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses ``(B,)`` of the trees with these numbers, and metrics of all of them or of one side."""
        rated = self.rated(scores, numbers)
        if self.method.sees_step:
            rated = replace(rated, of_step=torch.stack([self.of_step[i] for i in numbers]))
        ratio, policy = rated.ratio.detach(), rated.policy.detach()
        rewards = self.method.reward_scale * ratio
        if self.running is not None and torch.is_grad_enabled():
            self.running.note(numbers, rewards)
        metrics = dict(self.method.step_metrics(rated))
        for side, held in (("chosen", rated.desirable), ("rejected", ~rated.desirable)):
            metrics |= {
                f"rewards/{side}": rewards[held],
                f"logps/{side}": policy[held],
                f"displacement/{side}": ratio[held],
                f"lengths/{side}": scores.counts[held],
            }
        return self.method.loss(rated), metrics


def _sums(tokens: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each reply's log-probabilities summed over its tokens, ``(N,)`` float64, nats."""
    return torch.stack([each.double().sum() for each in tokens])


def margins(means: Mapping[str, float]) -> Mapping[str, float]:
    """How far the mean rewards of the two sides lie apart, where both were seen: no single reply has a margin."""
    if "rewards/chosen" not in means or "rewards/rejected" not in means:
        return {}
    return {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}
