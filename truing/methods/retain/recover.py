"""Give alignment back to a fine-tuned model by restoring few of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method, method
from truing.core.policy import Editable, Policy
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.retain._recovery import Masks, Recovery, mean_state
from truing.models.architecture import Slot, describe
from truing.models.cut import Cut

if TYPE_CHECKING:
    from truing.models.local import Local

MEND = "Give the model that was fine-tuned, in the same numbers."


def restorable(slots: Sequence[Slot], blocks: int) -> list[str]:
    """Names of what may be restored: tensors of the first blocks that are no norm's."""
    inside = (slot for slot in slots if slot.block is not None and slot.block < blocks)
    return [slot.name for slot in inside if not any(role.endswith("norm") for role in slot.roles)]


def budget(rate: float, tensors: Mapping[str, torch.Tensor]) -> int:
    """``ceil(rate x parameters)``, of the whole model, embeddings and later blocks counted."""
    return math.ceil(rate * sum(tensor.numel() for tensor in tensors.values()))


@method(paper="arXiv:2504.09757", dial="recovery_rate", neutral={"recovery_rate": 0.0})
class Recover(Method[Editable, Editable]):
    """Restores the weights whose aligned values turn harmful prompts' states back most; Yang et al. 2025.

    The base is the fine-tuned model, a donor is the aligned one that it was tuned from. In each step the gradient of
    ``-cos(mean state of harmful prompts, its mean in the aligned model)`` is taken behind block ``l``; among weights of
    the first ``l`` blocks that a copy of the aligned value would move down it, those with the largest gradients are
    overwritten with that value, so every weight of the outcome is the base's or the donor's, to the bit. Norms,
    embeddings and later blocks stay.

    ``prompts`` are the harmful ones, ``demos`` the task: if their loss has risen by more than ``task_tolerance`` after
    ``warmup_steps``, all begins again from the base, and each step also gives back to the task a share of what it
    restored. The last step is the outcome; the paper keeps the best of several by a judge, as a sweep of ``steps`` can.

    Attributes:
        recovery_rate: weights restored in a step at most, as a share of all the model's.
        steps: how many.
        warmup_steps: those before the task's loss is looked at, once; where it is 0 or not below ``steps``, never.
        layer_fraction: ``l`` over the number of blocks, rounded down; one block at least. The paper's code: 2/6 to 5/6.
        rollback_rate: share of a step's restored weights, among those for which it helps the task, that are given back.
        task_tolerance: relative rise of the mean loss a token of the demonstrations.
        accumulate: whether gradients of earlier steps are added up, until something is rolled back.
        sign_test: whether weights that a copy would move up the gradient are left out.
        candidates: how weights are chosen; ``random`` ones, without gradient or sign test, are the control.
        batch_size: prompts whose mean state is compared at once.
        max_prompts: harmful prompts and demonstrations that are read at most, the first ones.
        aligned: which donor; needed where there are several.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"prompts", "demos", "donors"})
    recovery_rate: Annotated[float, Ge(0), Le(1)] = 0.002
    steps: Annotated[int, Ge(1)] = 20
    warmup_steps: Annotated[int, Ge(0)] = 5
    layer_fraction: Annotated[float, Gt(0), Le(1)] = 1 / 3
    rollback_rate: Annotated[float, Ge(0), Le(1)] = 0.2
    task_tolerance: Annotated[float, Ge(0)] = 0.05
    accumulate: bool = True
    sign_test: bool = True
    candidates: Literal["gradient", "random"] = "gradient"
    batch_size: Annotated[int, Ge(1)] = 8
    max_prompts: Annotated[int, Ge(1)] = 256
    aligned: str = ""

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if not self.recovery_rate:
            return base
        job = self.prepared(base, evidence)
        rolling = self.walk(job, run, rolling=False)
        weights = job.recovery.cut.parameters
        changed = sum(int((weight.detach() != job.recovery.tuned[name]).sum()) for name, weight in weights.items())
        total = sum(tensor.numel() for tensor in job.base.weights().values())
        told = " after beginning again with rollback" if rolling else ""
        run.log.say(f"  restored {changed} of {total} weights ({changed / total:.2%}){told}; "
                    f"cosine of harmful prompts {job.began:.4f} -> {job.recovery.cosine():.4f}")  # fmt: skip
        return job.outcome()

    def walk(self, job: _Job, run: Run, *, rolling: bool) -> bool:
        """All steps; whether they ended with rollback."""
        count = budget(self.recovery_rate, job.base.weights())
        for step in range(self.steps):
            rng = run.rng("recover", step)
            restored, cosine = job.recovery.restore(count, signed=self.sign_test, by=self.candidates, rng=rng)
            row = {"step": step + 1, "cosine": cosine, "restored": _size(restored)}
            if rolling:
                row["rolled_back"] = _size(job.recovery.roll_back(restored, self.rollback_rate))
            elif not self.accumulate:
                job.recovery.forget_gradient()
            run.log.metrics(row)
            run.log.progress("recovering", step + 1, self.steps)
            if not rolling and 0 < step + 1 == self.warmup_steps < self.steps:
                before, now = (policy.tree_logprobs(job.task, run.log) for policy in (job.base, job.outcome()))
                rise = float(torch.cat(now).double().sum() / torch.cat(before).double().sum()) - 1
                run.log.say(f"  the task's loss is {rise:+.1%} after {step + 1} steps")
                if rise > self.task_tolerance and self.rollback_rate:
                    job.recovery.reload()
                    return self.walk(job, run, rolling=True)
        return rolling

    def prepared(self, base: Editable, evidence: Evidence) -> _Job:
        """Both models cut, their directions, and the prompts as tokens.

        Raises:
            InputError: something is lacking, or the donor is not what the base was tuned from.
        """
        missing = [name for name in ("prompts", "demos") if not getattr(evidence, name)]
        if missing:
            raise InputError(*(Fault(self.card.name, f"has no {name}", f"Give 'data.{name}'.") for name in missing))
        donor = self.donor(evidence)
        from truing.models.local import Local  # at first use, so that listing methods stays quick

        if not isinstance(base, Local) or not isinstance(donor, Local):
            fact = "reads what is inside a model, and one of the two is no model with blocks"
            raise bad(self.card.name, fact, "Give local models.")
        described = describe(base.model.config.get_text_config())
        described.require("steering")
        blocks = max(1, math.floor(self.layer_fraction * described.sizes.blocks + 1e-9))
        tuned, aligned = _both(base, donor, restorable(described.slots, blocks), self.card.name)
        chats, demos = evidence.prompts[: self.max_prompts], evidence.demos[: self.max_prompts]
        harmful = [tree.prompt for tree in base.encode_many(chats, [()] * len(chats))]
        task = base.encode_many([demo.prompt for demo in demos], [(demo.reply,) for demo in demos])
        benign = [tree.prompt for tree in task]
        cut = Cut(base, blocks, set(tuned))
        directions = mean_state(Cut(donor, blocks), harmful), mean_state(cut, benign)
        recovery = Recovery(cut, tuned, aligned, harmful, benign, directions, self.batch_size)
        return _Job(base, recovery, task, recovery.cosine())

    def donor(self, evidence: Evidence) -> Policy:
        """The aligned model."""
        given = evidence.donors
        if not given:
            raise bad(self.card.name, "has no donors", "Give the arm 'donors: {aligned: MODEL}'.")
        if self.aligned in given:
            return given[self.aligned]
        if self.aligned or len(given) > 1:
            fact = f"aligned = {self.aligned!r} names none of its donors, {', '.join(given)}"
            raise bad(self.card.name, fact, "Name the one that the base was tuned from.")
        return next(iter(given.values()))


@dataclass(frozen=True)
class _Job:
    base: Local
    recovery: Recovery
    task: Sequence[Tree]
    began: float

    def outcome(self) -> Local:
        """A model with the weights as they are now."""
        changed = {name: weight.detach() for name, weight in self.recovery.cut.parameters.items()}
        return self.base.with_weights({**self.base.weights(), **changed})


def _both(
    base: Local, donor: Local, names: Sequence[str], place: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of these names of the one and of the other, which must fit."""
    own, theirs = base.weights(), donor.weights()
    odd = [n for n in names if n not in theirs or theirs[n].shape != own[n].shape or theirs[n].dtype != own[n].dtype]
    if odd:
        raise bad(f"donors of {place}", f"{len(odd)} tensors do not fit the base's, {odd[0]!r} first", MEND)
    return {name: own[name].detach() for name in names}, {name: theirs[name].detach() for name in names}


def _size(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())
