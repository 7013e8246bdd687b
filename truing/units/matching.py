"""Matching two networks of one size: by their weights, by what their units do, or by the loss between them.

Everything is brought into the anchor's order; the anchor's own is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from truing.core.errors import Fault, InputError
from truing.core.lazy import torch
from truing.core.rng import Rng
from truing.units.alignment import Family, Table, agreement, families, hard, orders, solved
from truing.units.permutations import Order, Part, Permutation, PermutationSpec, apply, moved

Weights = Mapping[str, "torch.Tensor"]
Mover = Callable[[str, int, "torch.Tensor"], "torch.Tensor"]
"""A source's tensor with one axis brought into the target's order."""

ROUNDS = 6  # turns between heads and the dimensions within them: they settle in two or three
LEAST = 1e-12  # of the whole: a gain below it is rounding


@dataclass(frozen=True)
class Matched:
    """An order that was found.

    Attributes:
        permutation: of the other network, into the anchor's order.
        objective: the inner product of the two networks' weights at the start and after every step that was taken; it
            never falls.
        sweeps: how often all groups were gone through.
    """

    permutation: dict[str, Order]
    objective: tuple[float, ...] = ()
    sweeps: int = 0


def weight_tables(
    family: Family,
    anchor: Weights,
    other: Weights,
    mover: Mover,
    *,
    known: Collection[str] | None = None,
    distances: bool = False,
) -> list[Table]:
    """What weights say of a family: inner products of what belongs to each unit, all other axes being in order.

    Args:
        known: groups that are in order; tensors with another one on another axis say nothing yet. None: all are.
        distances: minus squared distances in place of inner products, of matrices alone, by the axes that make units
            alone: what a transport plan is drawn up from.
    """
    made: list[Table] = []
    for name, axes in family.source.tensors.items():
        if name in family.source.ties or name in family.source.silent or name not in other:
            continue
        if distances and len(axes) < 2:
            continue
        for axis, parts in enumerate(axes):
            others = {p.group for a, rest in enumerate(axes) if a != axis for p in rest if p.group}
            inner = {p.inner for a, rest in enumerate(axes) if a != axis for p in rest if p.inner}
            if known is not None and not (others | inner) <= set(known):
                continue
            if any(p.group in family.groups and not (distances and p.reads) for p in parts):
                tensor = wide(other[name])
                for a in range(len(axes)):
                    tensor = tensor if a == axis else mover(name, a, tensor)
                rows = tensor.movedim(axis, 0), wide(anchor[name]).movedim(axis, 0)
                targets = family.target.tensors[name][axis]
                made += _tables(family, name, parts, targets, *rows, distances=distances)
    return made


def _tables(
    family: Family,
    name: str,
    parts: tuple[Part, ...],
    targets: tuple[Part, ...],
    source: torch.Tensor,
    target: torch.Tensor,
    *,
    distances: bool,
) -> Iterator[Table]:
    begin = [0, 0]
    for part, other in zip(parts, targets, strict=True):
        if part.group in family.groups and not (distances and part.reads):
            left = source.narrow(0, begin[0], part.size).flatten(1)
            right = target.narrow(0, begin[1], other.size).flatten(1)
            scores = left @ right.T
            if distances:
                scores = 2 * scores - left.square().sum(1)[:, None] - right.square().sum(1)
            yield Table(part, other, scores.cpu(), name)
        begin = [begin[0] + part.size, begin[1] + other.size]


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 or better, without gradient; a vector as a column, so that every tensor has rows."""
    tensor = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor[:, None] if tensor.ndim == 1 else tensor


def match_weights(
    spec: PermutationSpec,
    anchor: Weights,
    other: Weights,
    *,
    max_sweeps: int,
    rng: Rng,
    start: Permutation | None = None,
) -> Matched:
    """The order of ``other`` whose weights have the greatest inner product with the anchor's, so the least distance.

    Coordinate descent over assignments (Ainsworth et al. 2023, arXiv:2209.04836, Algorithm 1). Without ``start`` it is
    anchored first: a group is solved from the tensors all of whose other axes are in order, beginning with those that
    have nothing to order there, as an embedding has by its vocabulary. So a reordered copy is found exactly, where
    descent from the order as it stands can stall: every layer then sees a stream that is still in disorder.

    Args:
        max_sweeps: over all groups, in an order drawn anew each time; it ends early where nothing gains.
        rng: decides that order.
        start: an order to begin from, instead.

    Raises:
        InputError: the two differ in a tensor's name or shape, or one is not finite.
    """
    check_alike(spec, anchor, other)
    current = spec.complete(start or {})
    whole = families(spec, spec)
    objective = [inner_product(spec, anchor, apply(spec, current, other))]

    def mover(name: str, axis: int, tensor: torch.Tensor) -> torch.Tensor:
        return moved(tensor, axis, spec.along(spec.tensors[name][axis], current))

    def step(family: Family, known: Collection[str] | None) -> bool:
        tables = weight_tables(family, anchor, other, mover, known=known)
        if not tables:
            return False
        found = orders(family, solved(family, tables, lambda name: hard, ROUNDS))
        before, after = (agreement(spec, tables, {**current, **new}) for new in ({}, found))
        if after - before > LEAST * max(1.0, abs(before)):
            current.update(found)
            if known is None:
                objective.append(objective[-1] + after - before)
            return True
        return False

    if start is None:
        for family, known in anchored(spec):
            step(family, known)
        objective = [inner_product(spec, anchor, apply(spec, current, other))]
    sweeps = 0
    for sweeps in range(1, max_sweeps + 1):
        order = rng.child("sweep", sweeps).numpy().permutation(len(whole))
        gained = [step(whole[i], None) for i in order]
        if not any(gained):
            break
    return Matched(current, tuple(objective), sweeps)


def anchored(source: PermutationSpec, target: PermutationSpec | None = None) -> Iterator[tuple[Family, set[str]]]:
    """Families in the order in which each can be solved from those before it, with the groups solved so far."""
    waiting, known = list(families(source, target or source)), set[str]()
    while waiting:
        family = next((f for f in waiting if _begun(f, known)), waiting[0])
        waiting.remove(family)
        yield family, set(known)
        known |= set(family.groups)


def _begun(family: Family, known: Collection[str]) -> bool:
    """Whether a matrix makes the family's units from nothing but what is known."""
    for axes in family.source.tensors.values():
        for axis, parts in enumerate(axes):
            if len(axes) > 1 and any(p.group in family.groups and not p.reads for p in parts):
                others = {g for a, rest in enumerate(axes) if a != axis for p in rest for g in (p.group, p.inner) if g}
                if others <= set(known):
                    return True
    return False


def inner_product(spec: PermutationSpec, left: Weights, right: Weights) -> float:
    """Of two networks' weights, over the tensors that tell which unit is which."""
    names = [n for n in spec.tensors if n in left and n not in spec.ties and n not in spec.silent]
    return sum(float((left[name].detach().double() * right[name].detach().double()).sum()) for name in names)


def check_alike(spec: PermutationSpec, anchor: Weights, other: Weights) -> None:
    """Refuse networks that are not of one shape, or hold what is not finite.

    Raises:
        InputError: every fault at once.
    """
    faults = []
    for side, weights in (("anchor", anchor), ("donor", other)):
        faults += [Fault(side, line) for line in spec.mismatches({k: tuple(v.shape) for k, v in weights.items()})]
        odd = [k for k in spec.tensors if k in weights and not bool(weights[k].isfinite().all())]
        faults += [Fault(side, f"{name} holds a value that is not finite") for name in odd[:3]]
    if faults:
        raise InputError(*faults)


def shared_units(spec: PermutationSpec, permutation: Permutation) -> Mapping[str, float]:
    """For each kind of group, the share of units that stay where they are, in [0, 1]: 1 throughout is the identity."""
    kept: dict[str, list[float]] = {}
    for name, order in spec.complete(permutation).items():
        stay = (order.index == torch.arange(len(order.index))) & (order.signs == 1)
        kept.setdefault(name.split(".")[0], []).append(float(stay.double().mean()))
    return {kind: sum(shares) / len(shares) for kind, shares in kept.items()}
