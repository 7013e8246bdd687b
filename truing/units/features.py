"""Matching by what units do: their correlations over the same inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.units.alignment import Table, hard, orders, solved
from truing.units.matching import ROUNDS, Matched, anchored, check_alike, weight_tables
from truing.units.permutations import Part, PermutationSpec, moved


@dataclass(frozen=True)
class Site:
    """Where units show: what a layer reads, or what it gives.

    Attributes:
        module: its name.
        reads: whether its input is meant.
        parts: of the axis.
    """

    module: str
    reads: bool
    parts: tuple[Part, ...]


def sites(spec: PermutationSpec) -> tuple[Site, ...]:
    """What layers read, so after any non-linearity; and what attention's layers give, where heads can be told apart."""
    found = []
    for name, axes in spec.tensors.items():
        if len(axes) < 2 or not name.endswith(".weight"):
            continue
        for parts in axes:
            groups = [spec.groups[part.group] for part in parts if part.group]
            reads = any(part.reads for part in parts)
            nested = any(group.leader or part.inner for group, part in zip(groups, parts, strict=False))
            if groups and (reads or nested):
                found.append(Site(name.removesuffix(".weight"), reads, parts))
    return tuple(found)


class Moments:
    """Running sums over inputs of two networks' features at one place, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.left: Any = 0
        self.right: Any = 0
        self.squares: Any = 0
        self.squares_right: Any = 0
        self.cross: Any = 0

    def add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Features of the same inputs, ``(T, M)`` and ``(T, N)``."""
        a, b = left.double(), right.double()
        self.count += len(a)
        self.left, self.right = self.left + a.sum(0), self.right + b.sum(0)
        self.squares, self.squares_right = self.squares + a.square().sum(0), self.squares_right + b.square().sum(0)
        self.cross = self.cross + a.T @ b

    def scores(self, *, correlation: bool) -> torch.Tensor:
        """``(M, N)``: correlations, 0 for a unit that never varies; or mean products."""
        cross: torch.Tensor = self.cross / self.count
        if not correlation:
            return cross
        a, b = self.left / self.count, self.right / self.count
        spread = [(self.squares / self.count - a.square()), (self.squares_right / self.count - b.square())]
        varies = [s > 1e-12 * (m.square() + 1e-30) for s, m in zip(spread, (a, b), strict=True)]
        inverse = [torch.where(v, s.clamp(min=1e-300).rsqrt(), 0.0) for v, s in zip(varies, spread, strict=True)]
        return (cross - torch.outer(a, b)) * inverse[0][:, None] * inverse[1]


@contextmanager
def watched(module: torch.nn.Module, places: Iterable[Site]) -> Iterator[dict[Site, torch.Tensor]]:
    """What the last forward pass had at some places, ``(T, units)``, inputs and positions one after another.

    A place whose input is another's too is told once.
    """
    modules, seen, handles = dict(module.named_modules()), dict[Site, torch.Tensor](), []
    told: dict[int, tuple[Site, torch.Tensor]] = {}  # what is held keeps its number

    def keep(site: Site, value: torch.Tensor) -> None:
        if site.reads and told.setdefault(id(value), (site, value))[0] != site:
            return
        images = isinstance(modules[site.module], torch.nn.modules.conv._ConvNd)
        held = value.detach().movedim(1, -1) if images else value.detach()
        seen[site] = held.flatten(0, -2)

    def before(site: Site) -> Any:
        return lambda owner, given: keep(site, given[0])

    def after(site: Site) -> Any:
        return lambda owner, given, out: keep(site, out)

    for site in places:
        if site.module in modules:
            owner = modules[site.module]
            handles.append(
                owner.register_forward_pre_hook(before(site))
                if site.reads
                else owner.register_forward_hook(after(site))
            )
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def activation_tables(
    spec: PermutationSpec,
    anchor: torch.nn.Module,
    other: torch.nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    correlation: bool,
) -> list[Table]:
    """How alike units are in what they do, at every place where the two networks can be watched.

    Args:
        batches: the arguments of a forward pass each; both networks get the same.
        correlation: centred and divided by the deviations; else mean products.

    Raises:
        InputError: there are no batches.
    """
    places, moments = sites(spec), dict[Site, Moments]()
    for batch in batches:
        with torch.no_grad():
            with watched(other, places) as theirs:
                other(**batch)
            with watched(anchor, places) as ours:
                anchor(**batch)
        for site, features in theirs.items():
            if site in ours:
                moments.setdefault(site, Moments()).add(features, ours[site])
    if not moments:
        raise bad("activations", "nothing was seen", "Give at least one input, and a module with the layers' names.")
    made = []
    for site, sums in moments.items():
        scores, begin = sums.scores(correlation=correlation).cpu(), 0
        for part in site.parts:
            made.append(Table(part, part, scores.narrow(0, begin, part.size).narrow(1, begin, part.size)))
            begin += part.size
    return made


def match_activations(
    spec: PermutationSpec,
    anchor: Mapping[str, torch.Tensor],
    other: Mapping[str, torch.Tensor],
    tables: list[Table],
) -> Matched:
    """The order in which units do the most alike. Groups that could not be watched are matched by their weights.

    One assignment a group, without sweeps: what a unit does does not depend on the order of others (Li et al. 2015,
    arXiv:1511.07543; Ainsworth et al. 2023, arXiv:2209.04836, section 3).

    Args:
        tables: from :func:`activation_tables`.

    Raises:
        InputError: the two differ in a tensor's name or shape, or one is not finite.
    """
    check_alike(spec, anchor, other)
    current = spec.complete({})

    def mover(name: str, axis: int, tensor: torch.Tensor) -> torch.Tensor:
        return moved(tensor, axis, spec.along(spec.tensors[name][axis], current))

    for family, known in anchored(spec):
        own = [table for table in tables if table.source.group in family.groups]
        own = own or weight_tables(family, anchor, other, mover, known=known)
        if own:
            current.update(orders(family, solved(family, own, lambda name: hard, ROUNDS)))
    return Matched(current)
