"""Merging: a member combines the donors' differences from the base, tensor by tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.run import Run


@dataclass(frozen=True, kw_only=True)
class MergeMethod(Method[Editable, Editable]):
    """Adds a combination of ``K`` donors' deltas to the base. Donors are taken in the order they were named."""

    reads: ClassVar[frozenset[str]] = frozenset({"donors"})

    @abstractmethod
    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        """From ``(K, *S)`` differences, donor minus base, in float32 or better, to the ``(*S)`` difference to apply."""

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        if not evidence.donors:
            raise bad(self.card.name, "has no donors", "Give the arm 'donors:', or --donor NAME=MODEL.")
        own = base.weights()
        donors = {name: _weights(name, donor) for name, donor in evidence.donors.items()}
        faults = [fault for name, theirs in donors.items() for fault in _mismatches(name, own, theirs)]
        if faults:
            raise InputError(*faults)
        merged: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for done, (name, tensor) in enumerate(own.items()):
                if not tensor.is_floating_point():
                    merged[name] = tensor
                    continue
                wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
                deltas = torch.stack([theirs[name].detach().to(wide) - wide for theirs in donors.values()])
                merged[name] = (wide + self.combine(deltas)).to(tensor.dtype)
                run.log.progress("merging", done + 1, len(own))
        return base.with_weights(merged)


def _weights(name: str, donor: object) -> dict[str, torch.Tensor]:
    if not isinstance(donor, Editable):
        raise InputError(Fault(f"donors.{name}", "has no weights to merge", "Give a model, not a wrapped policy."))
    return dict(donor.weights())


def _mismatches(donor: str, own: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> list[Fault]:
    odd = sorted(own.keys() ^ theirs.keys())
    if odd:
        return [Fault(f"donors.{donor}", f"{len(odd)} tensors stand on one side only, {odd[0]!r} first", _MEND)]
    wrong = [name for name, tensor in own.items() if tensor.shape != theirs[name].shape]
    text = "{}: {} instead of {}"
    return [
        Fault(f"donors.{donor}", text.format(name, tuple(theirs[name].shape), tuple(own[name].shape)), _MEND)
        for name in wrong[:3]
    ]


_MEND = "Merge models of one architecture and one vocabulary."
