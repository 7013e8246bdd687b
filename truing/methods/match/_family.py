"""Matching: a member brings a donor's units into the base's order, so that what follows adds like to like."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable, Policy
from truing.core.run import Run
from truing.models.movable import movable, opened
from truing.units.matching import Matched, shared_units
from truing.units.permutations import PermutationSpec, apply

Weights = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class MatchMethod(Method[Editable, Evidence]):
    """Gives the donors again, each in the base's order: the same function where the order is a permutation."""

    reads: ClassVar[frozenset[str]] = frozenset({"donors"})
    writes: ClassVar[frozenset[str]] = frozenset({"donors"})

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether, at these settings, nothing is looked for and the donors stay as they are."""

    @abstractmethod
    def aligned(self, base: Editable, donor: Editable, evidence: Evidence, run: Run) -> Editable:
        """The donor in the base's order; ``run``'s streams are this donor's own."""

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Evidence:
        if self.idle:
            return Evidence()
        lacking = sorted(self.reads - evidence.provided)
        if lacking:
            mend = (
                "Give the arm 'donors:', or --donor NAME=MODEL."
                if "donors" in lacking
                else f"Give 'data.{lacking[0]}'."
            )
            raise bad(self.card.name, f"has no {' and no '.join(lacking)}", mend)
        made: dict[str, Policy] = {}
        for done, (name, donor) in enumerate(evidence.donors.items()):
            made[name] = self.aligned(base, opened(name, donor, base), evidence, run.within(name))
            run.log.progress("matching", done + 1, len(evidence.donors))
        return Evidence(donors=made)


def anchored_spec(base: Editable, donor: Editable, method: str) -> PermutationSpec:
    """What may move in both.

    Raises:
        InputError: the two differ in a tensor's name or shape.
    """
    spec = movable(base)
    lines = spec.mismatches({name: tuple(tensor.shape) for name, tensor in donor.weights().items()})
    lines += tuple(f"{name} stands on one side only" for name in sorted(base.weights().keys() ^ donor.weights().keys()))
    if lines:
        mend = "Match models of one shape; match/sinkhorn and merge/ot_fusion take other widths."
        raise InputError(*(Fault(f"{method}: donor", line, mend) for line in lines[:3]))
    return spec


def reordered(spec: PermutationSpec, donor: Editable, matched: Matched, run: Run) -> Editable:
    """The donor in the order that was found, with a line on how much of it moved."""
    kept = shared_units(spec, matched.permutation)
    moved = [f"{kind} {1 - share:.0%}" for kind, share in kept.items() if share < 1]
    if kept:
        run.log.say("  matching: " + (f"moved {', '.join(moved)}" if moved else "every unit is where the base has it"))
    return donor.with_weights(apply(spec, matched.permutation, donor.weights()))
