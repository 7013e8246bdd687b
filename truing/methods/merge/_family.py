"""Merging: a member combines one tensor of the base with the same tensor of the donors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import Method
from truing.core.policy import Editable
from truing.core.rng import Rng
from truing.core.run import Run
from truing.engine.tensors import Tensors, as_tensors, depths
from truing.methods.merge._blend import Blend, Part, Site, Source, Stretch

Each = float | tuple[float, ...]
"""A setting of the donors: one number for all, or one for each in their order."""


@dataclass(frozen=True, kw_only=True)
class MergeMethod(Method[Editable, Editable]):
    """Combines a base with ``K`` donors, tensor by tensor. Donors are taken in the order they were named.

    A member writes :meth:`combine`, or, where it needs more than differences, :meth:`blend` and :meth:`survey`.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"donors"})
    counts: ClassVar[tuple[int, int | None]] = (1, None)
    """Fewest and most donors."""

    @property
    def cut(self) -> bool:
        """Whether :meth:`blend` may be given a tensor stretch by stretch: then memory does not grow with tensors."""
        return False

    @property
    def surveys(self) -> bool:
        """Whether whole tensors are looked at before they are blended."""
        return type(self).survey is not MergeMethod.survey

    def survey(self, site: Site) -> Any:
        """What must be known of a whole tensor before its stretches are blended: a few numbers, no tensor."""
        return None

    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        """From ``(K, *S)`` differences, donor minus base, in float32 or better, to the ``(*S)`` difference to apply."""
        raise NotImplementedError

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        """The outcome's numbers, ``(*S)``, in the type of ``at.base``.

        Args:
            at: base and donors, the whole tensor, or flat stretches of it where :attr:`cut` says so.
            found: what :meth:`survey` gave.
        """
        return at.base + self.combine(at.deltas)

    def merged(self, base: Tensors, donors: Iterable[Tensors], rng: Rng) -> Blend:
        """The outcome, lazily: nothing is read before it is asked for. All have the names and shapes of the base."""
        deep, donors = depths(base), list(donors)
        parts = {
            name: Part(base.spec(name), Source(base, name), tuple(Source(theirs, name) for theirs in donors),
                       self if base.spec(name).dtype.is_floating_point else None, deep[name])
            for name in base
        }  # fmt: skip
        return Blend(parts, rng)

    def __call__(self, base: Editable, evidence: Evidence, run: Run, /) -> Editable:
        from truing.engine.stream import gather

        own, donors = checked_donors(self, base, evidence)
        return base.with_weights(gather(self.merged(own, donors.values(), run.rng("merge")), run.log))

    def require(self, count: int) -> None:
        """Refuse a number of donors that the method has no meaning for.

        Raises:
            InputError: too few, too many, or not as many as there are settings for.
        """
        least, most = self.counts
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            mend = "merge/linear, merge/karcher and merge/multislerp take any number."
            raise bad(self.card.name, f"takes {wanted} donor{'s' * (wanted != '1')} beside the base, not {count}", mend)
        for name in self.card.fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and value and len(value) != count + (name == "weights"):
                whom = "base and donors" if name == "weights" else "donors"
                fact = f"{name} has {len(value)} values, and there are {count + (name == 'weights')} {whom}"
                raise bad(self.card.name, fact, "Give one for each, or one number for all.")


def checked_donors(method: MergeMethod, base: Editable, evidence: Evidence) -> tuple[Tensors, dict[str, Tensors]]:
    """The tensors of base and donors, of one architecture, and as many donors as the method takes.

    Raises:
        InputError: there are no donors, or not as many as the method takes, or their tensors are not the base's.
    """
    if evidence.donors:
        method.require(len(evidence.donors))
    return fitting(method.card.name, base, evidence)


def fitting(place: str, base: Editable, evidence: Evidence) -> tuple[Tensors, dict[str, Tensors]]:
    """The tensors of base and donors, of one architecture.

    Raises:
        InputError: there are no donors, or their tensors are not the base's.
    """
    if not evidence.donors:
        raise bad(place, "has no donors", "Give the arm 'donors:', or --donor NAME=MODEL.")
    own = as_tensors(base.weights())
    donors = {name: _weights(name, donor) for name, donor in evidence.donors.items()}
    faults = [fault for name, theirs in donors.items() for fault in mismatches(f"donors.{name}", own, theirs)]
    if faults:
        raise InputError(*faults)
    return own, donors


def each(value: Each, count: int) -> list[float]:
    """A setting for each of the donors."""
    return list(value) if isinstance(value, tuple) else [value] * count


def _weights(name: str, donor: object) -> Tensors:
    if not isinstance(donor, Editable):
        raise InputError(Fault(f"donors.{name}", "has no weights to merge", "Give a model, not a wrapped policy."))
    return as_tensors(donor.weights())


def mismatches(place: str, own: Tensors, theirs: Tensors) -> list[Fault]:
    """Why a donor's tensors cannot be merged with the base's: other names, or the first shapes that differ."""
    odd = sorted(own.keys() ^ theirs.keys())
    if odd:
        return [Fault(place, f"{len(odd)} tensors stand on one side only, {odd[0]!r} first", _MEND)]
    shapes = {name: (own.spec(name).shape, theirs.spec(name).shape) for name in own}
    text = "{}: {} instead of {}"
    return [
        Fault(place, text.format(name, there, here), _MEND) for name, (here, there) in shapes.items() if here != there
    ][:3]


_MEND = "Merge models of one architecture and one vocabulary."
