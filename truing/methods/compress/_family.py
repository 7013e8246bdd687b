"""Compression: a member makes the experts of a mixture fewer or smaller, then all of it recovers by distillation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Extras, Tree, TreeScores
from truing.engine.fit import Companion, Objective, Training, fit, planned
from truing.methods.compress._routing import Routing, routing
from truing.models.experts import Storage, mixtures

if TYPE_CHECKING:
    from truing.models.local import Local


@dataclass(frozen=True, kw_only=True)
class CompressMethod(Training, Method[Editable, Editable]):
    """Reads demonstrations: as calibration text, and to recover on. With ``max_steps: 0`` nothing is recovered.

    What is recovered on is the negative log-likelihood of the replies plus ``kd_weight T^2`` times KL(base || policy)
    over the vocabulary at temperature ``T``, a mean over tokens. The base is the model as it was before this step.

    Attributes:
        max_calibration: how many demonstrations routers are watched on, from the first.
        kd_weight: of distillation; 0 saves the base's forward passes.
        kd_temperature: ``T``; its square keeps the gradient's size (Hinton et al. 2015, arXiv:1503.02531).
        storage: ``plain`` is a folder that transformers loads, in which an expert is written once for every row of the
            router that it stands for: smaller in this program's memory, not on the disk. ``compact`` is smaller on the
            disk too, and only this program loads it.
    """

    max_calibration: Annotated[int, Ge(1)] = 256
    kd_weight: Annotated[float, Ge(0)] = 0.2
    kd_temperature: Annotated[float, Gt(0)] = 2.0
    storage: Storage = "plain"
    learning_rate: Annotated[float, Ge(0)] = 1e-5

    reads: ClassVar[frozenset[str]] = frozenset({"demos"})

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether the settings leave experts as they are."""

    @abstractmethod
    def reduced(self, model: Any, seen: Mapping[int, Routing]) -> Any:
        """A model of its own with other experts; ``seen`` is what each block's router did."""

    def companion(self, steps: int) -> Companion | None:
        """What goes along with the recovery of so many steps."""
        return None

    def settled(self, policy: Local, trees: Sequence[Tree], companion: Companion | None) -> Local:
        """What is given back, after the recovery that ``companion`` went along with."""
        return policy

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        if not isinstance(base, Local) or not mixtures(base.model):
            mend = "Give a mixture of experts: mixtral, qwen2_moe, qwen3_moe or olmoe."
            raise bad(self.card.name, "the base has no experts", mend)
        if not evidence.demos:
            raise bad(self.card.name, "has no demonstrations to calibrate with", "Give 'data.demos'.")
        demos = evidence.demos
        trees = base.encode_many([demo.prompt for demo in demos], [(demo.reply,) for demo in demos])
        weights = [float(len(tree.replies[0])) for tree in trees]
        if self.idle:
            return fit(base, trees, Objective(weights, self._score, extras=self._extras), self, run)
        seen = routing(base.model, trees[: self.max_calibration], run.log)
        policy = Local(self.reduced(base.model, seen), base.tokenizer, name=base.name, log=base.log)
        policy.anchor = base.model
        companion = self.companion(planned(len(trees), self)[1])
        objective = Objective(weights, self._score, companion=companion, extras=self._extras)
        made = fit(policy, trees, objective, self, run)
        if not isinstance(made, Local):
            raise TypeError("what was opened here is closed as something else")
        done = self.settled(made, trees, companion)
        run.log.say(f"  {self.card.name}: {saved(base.model, done.model, seen)}")
        size = sum(p.numel() for p in done.model.parameters())
        done.footprint = {"parameters": size, "multiplications": multiplications(done.model, seen)}
        return done

    @property
    def _extras(self) -> Extras:
        return Extras(divergences=self.kd_weight > 0, temperature=self.kd_temperature)

    def _score(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        task = -scores.tokens
        told = {"nll": task}
        if scores.divergences is not None:
            told["kd"] = self.kd_temperature**2 * scores.divergences
        losses = task + self.kd_weight * told["kd"] if "kd" in told else task
        zeros = losses.new_zeros(len(scores.counts))
        means = {
            name: zeros.index_add(0, scores.owner, value.detach()) / scores.counts.clamp_min(1)
            for name, value in told.items()
        }
        return zeros.index_add(0, scores.owner, losses), means


def saved(before: Any, after: Any, seen: Mapping[int, Routing]) -> str:
    """What was saved, in words: experts, parameters in this program's memory, multiplications a token in experts."""
    counts = [sum(int(m.members.max()) + 1 for m in mixtures(model)) for model in (before, after)]
    sizes = [sum(p.numel() for p in model.parameters()) for model in (before, after)]
    work = [multiplications(model, seen) for model in (before, after)]
    return (
        f"{counts[0]} experts to {counts[1]}, {sizes[0]:,} parameters to {sizes[1]:,} "
        f"({1 - sizes[1] / sizes[0]:.0%} less), {work[0]:,.0f} multiplications a token in experts to {work[1]:,.0f}"
    )


def multiplications(model: Any, seen: Mapping[int, Routing]) -> float:
    """How many a token costs in all experts that it passes, on average over the calibration text."""
    total = 0.0
    for mixture in mixtures(model):
        many = int(mixture.members.max()) + 1
        per_expert = sum(p.numel() for p in mixture.experts.parameters()) / many
        total += seen[mixture.block].distinct(mixture.members) * per_expert
    return total
