"""What a merge makes, as lazy tensors: each from its sources by its method, a stretch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.rng import Rng
from truing.engine.tensors import STRETCH, Held, Spec, Tensors

if TYPE_CHECKING:
    from truing.methods.merge._family import MergeMethod

_RUN = 1 << 10  # numbers of a run of a sample
_SMALL = 1 << 26  # bytes of a stored tensor: no more of it is read once, by a method that looks at it more than once
_SPARE = 5  # tensors beside the sources that a method which sees a tensor whole may hold, about


class Source(NamedTuple):
    """One tensor of one model. ``model`` is for messages."""

    tensors: Tensors
    name: str
    model: str = ""

    def spec(self) -> Spec:
        """Its shape and type."""
        return self.tensors.spec(self.name)


@dataclass(frozen=True)
class Part:
    """One tensor that is to be made.

    Attributes:
        spec: its shape and type.
        base, donors: where its numbers come from; all of its shape.
        method: what combines them; None copies the base's.
        depth: where in the model, 0 to 1.
        at_least: the type of the arithmetic is this one or a wider one; by default float32.
    """

    spec: Spec
    base: Source
    donors: tuple[Source, ...] = ()
    method: MergeMethod | None = None
    depth: float = 0.0
    at_least: torch.dtype | None = None


@dataclass(frozen=True)
class Site:
    """A tensor in the making.

    Attributes:
        name: of the outcome.
        depth: 0 for the first block, 1 for the last, 0 outside of blocks.
        shape: of the tensor.
        dtype: of the arithmetic, float32 or wider.
        rng: a stream of its own, named by the tensor.
    """

    name: str
    depth: float
    shape: tuple[int, ...]
    dtype: torch.dtype
    rng: Rng
    sources: tuple[Source, ...]
    cut: bool

    @property
    def count(self) -> int:
        """The donors."""
        return len(self.sources) - 1

    @property
    def size(self) -> int:
        """Numbers of the tensor."""
        return self.sources[0].spec().count

    def stretches(self) -> Iterator[Stretch]:
        """Base and donors from the beginning to the end; whole in one piece where the method is not cut."""
        step = STRETCH if self.cut else max(self.size, 1)
        for start in range(0, max(self.size, 1), step):
            yield self._stretch(start, min(start + step, self.size))

    def sample(self, size: int) -> Iterator[Stretch]:
        """About ``size`` numbers of a tensor that is cut, in short runs from the beginning to the end."""
        step = max(_RUN * self.size // size, _RUN)
        for start in range(0, self.size, step):
            yield self._stretch(start, min(start + _RUN, self.size))

    def _stretch(self, start: int, stop: int) -> Stretch:
        shape = (stop - start,) if self.cut else self.shape
        own, *theirs = (source.tensors.stretch(source.name, start, stop).reshape(shape) for source in self.sources)
        return Stretch(self, start, own.to(self.dtype), tuple(theirs))


@dataclass(frozen=True)
class Stretch:
    """Numbers that are combined together.

    Attributes:
        start: position of the first one in the flattened tensor.
        base: ``(*S)``, not to be written to.
        given: the donors' numbers as they are stored, each ``(*S)``.
    """

    site: Site
    start: int
    base: torch.Tensor
    given: tuple[torch.Tensor, ...]

    @cached_property
    def donors(self) -> tuple[torch.Tensor, ...]:
        """``K`` of ``(*S)`` in the type of the base, not to be written to."""
        return tuple(donor.to(self.base) for donor in self.given)

    @cached_property
    def deltas(self) -> torch.Tensor:
        """Donor minus base, ``(K, *S)``, not to be written to."""
        made = torch.empty(len(self.given), *self.base.shape, dtype=self.base.dtype, device=self.base.device)
        for donor, row in zip(self.donors, made, strict=True):
            torch.sub(donor, self.base, out=row)
        return made

    @property
    def models(self) -> tuple[torch.Tensor, ...]:
        """Base and donors, ``1 + K`` of ``(*S)``."""
        return (self.base, *self.donors)


class Blend(Tensors):
    """The outcome of a merge.

    Args:
        rng: random masks are drawn from streams below it, named by tensor, donor and position.
        finite: refuse numbers that are not finite.
    """

    def __init__(self, parts: Mapping[str, Part], rng: Rng, *, finite: bool = False) -> None:
        self.parts, self.rng, self.finite = parts, rng, finite

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def spec(self, name: str) -> Spec:
        return self.parts[name].spec

    def cost(self, name: str) -> int:
        part = self.parts[name]
        sources = (part.base, *part.donors)
        spread = part.method is None or part.method.cut
        if spread and all(source.tensors.cheap(source.name) for source in sources):
            held = [source.spec().size for source in sources if part.method and _kept(source, part.method)]
            return STRETCH * 8 * (len(sources) + _SPARE) + sum(held)
        return part.base.spec().count * 4 * (len(sources) + _SPARE)

    def read(self, name: str) -> torch.Tensor:
        from truing.engine.stream import one_thread  # only where something is merged: listing methods stays quick

        with torch.no_grad(), one_thread():
            return super().read(name)

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        part = self.parts[name]
        if part.method is None:
            for start, piece in part.base.tensors.pieces(part.base.name):
                yield start, self._checked(name, part, piece.to(part.spec.dtype))
            return
        widest = part.at_least or torch.float32
        for source in (part.base, *part.donors):
            widest = torch.promote_types(widest, source.spec().dtype)
        method = part.method
        sources = tuple(_at_hand(source, method) for source in (part.base, *part.donors))
        site = Site(name, part.depth, part.base.spec().shape, widest, self.rng.child(name), sources, method.cut)
        found = method.survey(site)
        for at in site.stretches():
            made = method.blend(at, found).to(part.spec.dtype)
            yield at.start, self._checked(name, part, made.flatten().cpu())

    def _checked(self, name: str, part: Part, piece: torch.Tensor) -> torch.Tensor:
        if self.finite and piece.is_floating_point() and not _all_finite(piece):
            for source in (part.base, *part.donors):
                if not _all_finite(source.tensors.read(source.name)):
                    fact = f"{source.name} holds numbers that are not finite"
                    raise bad(source.model or source.name, fact, "Fetch it again, or allow them with allow_nan.")
            fact = f"the outcome of {name} is not finite in {part.spec.dtype}, though its sources are"
            raise bad("out_dtype", fact, "Write a wider type, or smaller weights.")
        return piece


def _all_finite(numbers: torch.Tensor) -> bool:
    """By their sum, which is finite only where all are: a thirtieth of the time of looking at each, which is left for
    sums that overflow."""
    return bool(torch.isfinite(numbers.sum())) or bool(torch.isfinite(numbers).all())


def _at_hand(source: Source, method: MergeMethod) -> Source:
    """The source itself, or its tensor in memory where that is read for less."""
    if source.tensors.cheap(source.name) and not _kept(source, method):
        return source
    return source._replace(tensors=Held({source.name: source.tensors.read(source.name)}))


def _kept(source: Source, method: MergeMethod) -> bool:
    """Whether a stored tensor is read once for all that a method asks of it."""
    return method.surveys and not isinstance(source.tensors, Held) and source.spec().size <= _SMALL
