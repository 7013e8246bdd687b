"""Preference objectives: a member writes one loss over the log-probabilities of pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable, Workbench
from truing.core.run import Run
from truing.core.trees import NO_EXTRAS, Extras, Tree, TreeScores
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.methods.preference._diagnose import entangled, pair_metrics, ties
from truing.methods.preference._memory import Memory
from truing.methods.preference._pairs import PairLogps as PairLogps
from truing.methods.preference._pairs import gather
from truing.methods.preference._reference import FixedReference, NoReference, Reference


@dataclass(frozen=True, kw_only=True)
class PreferenceMethod(Training, Method[Editable, Editable]):
    """Trains on pairs; the base is the reference.

    Attributes:
        entanglement: which gradients tell whether a step will raise the chosen reply, measured on every eighth pair:
            those of the output projection, which cost next to nothing, or of every weight that is trained.
        uses_reference: whether the loss reads the base's log-probabilities; where it does not, none are computed.
        compares: sums of log-probabilities over a reply's tokens, means, or both.
    """

    entanglement: Literal["off", "last_layer", "exact"] = "last_layer"

    reads: ClassVar[frozenset[str]] = frozenset({"pairs"})
    uses_reference: ClassVar[bool] = True
    compares: ClassVar[Literal["sums", "means", "sums and means"]] = "sums"

    @classmethod
    def traits(cls) -> Mapping[str, str]:
        return {"reference": "base" if cls.uses_reference else "none", "compares": cls.compares}

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

    @property
    def sees_step(self) -> bool:
        """Whether the loss of a pair depends on the other pairs of its step: then :meth:`of_step` is asked first."""
        return False

    def of_step(self, step: PairLogps) -> torch.Tensor:
        """What the loss must know of each pair of a whole step, ``(B, ...)``, from pairs without gradient."""
        return step.margin

    def memory(self, examples: int) -> Memory | None:
        """What goes from step to step, and is asked in place of :meth:`of_step`; None for nothing.

        Args:
            examples: how many there are, those that are held out included.
        """
        return None

    @property
    def perturbation(self) -> Callable[[Workbench, Sequence[Tree]], torch.Tensor] | None:
        """How the prompts' embeddings are moved before trees are scored, ``(P, D)``; None leaves them where they are.

        The base is scored on the prompts as they were, and so is entanglement where it is ``exact``.
        """
        return None

    @property
    def extras(self) -> Extras:
        """What the loss, or what is asked of a whole step, reads beside log-probabilities."""
        return NO_EXTRAS

    def reference(self, base: Editable, trees: Sequence[Tree], run: Run) -> Reference:
        """What the pairs are compared with: the base, in one pass that all members share, or nothing."""
        if not self.uses_reference:
            return NoReference()
        return FixedReference(reference_logprobs(base, trees, run, self.precision))

    def trees(self, base: Editable, evidence: Evidence, run: Run) -> list[Tree]:
        """The examples: a chosen and a rejected reply each. One without tokens is none, and nothing is logged of it."""
        given = evidence.pairs
        return base.encode_many([p.prompt for p in given], [(p.chosen, p.rejected) for p in given])

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if self.max_steps == 0:
            return base
        if not evidence.pairs:
            raise bad(self.card.name, "has no pairs", "Give 'data.pairs', or put synthesize/best_and_worst before it.")
        trees = self.trees(base, evidence, run)
        reference, memory = self.reference(base, trees, run), self.memory(len(trees))
        pairs = _PairObjective(self, reference, trees, memory)
        objective = Objective(
            [1.0] * len(trees),
            pairs.score,
            inspect=pairs.inspect,
            survey=pairs.survey if self.sees_step else None,
            companion=reference.companion if memory is None else memory,
            extras=self.extras,
            perturb=self.perturbation,
        )
        return fit(base, trees, objective, self, run)


@dataclass(frozen=True)
class _PairObjective:
    """The member's loss over the scores of a micro-batch, with TRL's metrics."""

    method: PreferenceMethod
    reference: Reference
    trees: Sequence[Tree]  # N of two replies
    memory: Memory | None = None
    of_step: dict[int, torch.Tensor] = field(default_factory=dict)

    def survey(self, scores: TreeScores, numbers: Sequence[int]) -> None:
        """Keep what the member says of a whole step."""
        step = gather(scores, self.reference(numbers))
        said = self.method.of_step(step) if self.memory is None else self.memory.of_step(step)
        self.of_step.clear()
        self.of_step.update(zip(numbers, said, strict=True))

    def pairs(self, scores: TreeScores, numbers: Sequence[int]) -> PairLogps:
        """The pairs with these numbers, with their graph."""
        pairs = gather(scores, self.reference(numbers))
        if self.method.sees_step:
            pairs = replace(pairs, of_step=torch.stack([self.of_step[i] for i in numbers]))
        return pairs

    def score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """Losses and metrics of the trees with these numbers, each ``(B,)``."""
        pairs = self.pairs(scores, numbers)
        chosen, rejected = (rewards.detach() for rewards in self.method.rewards(pairs))
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            # A tie is half right: before the first update every pair is one.
            "rewards/accuracies": torch.where(ties(pairs), 0.5, (chosen > rejected).to(chosen)),
            "logps/chosen": pairs.chosen.detach(),
            "logps/rejected": pairs.rejected.detach(),
            **pair_metrics(self.method.loss, pairs, chosen - rejected, referenced=self.method.uses_reference),
        }
        whole = [place for place, i in enumerate(numbers) if all(self.trees[i].replies)]
        if len(whole) < len(numbers):
            metrics = {name: values[whole] for name, values in metrics.items()}
        return self.method.loss(pairs), metrics

    def inspect(self, bench: Workbench, scores: TreeScores, numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        """Gradient entanglement of some of the trees with these numbers."""
        trees, pairs = [self.trees[i] for i in numbers], self.pairs(scores, numbers)
        return entangled(self.method.entanglement, self.method.loss, bench, scores, trees, pairs, numbers)
