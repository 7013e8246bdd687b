"""Partly merged networks: units that are alike become one, the others stay side by side.

Every axis that follows a group is written as [merged | separate of model 1 | separate of model 2 | ...], the separate
ones in the aligned order. Nasery et al. 2024, arXiv:2407.02447; its second step is :mod:`truing.units.regress`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.lazy import torch
from truing.units.alignment import Table
from truing.units.permutations import Axes, Part, PermutationSpec

MERGED = -1


@dataclass(frozen=True, eq=False)
class Place:
    """Where the numbers along one widened axis come from.

    Attributes:
        index: ``(n',)`` int64, the place in the narrow axis.
        owner: ``(n',)`` int64, the model that each belongs to, :data:`MERGED` for all.
    """

    index: torch.Tensor
    owner: torch.Tensor

    def writes(self, model: int, share: float) -> torch.Tensor:
        """``(n',)`` how much a row is of a model's: its share of a merged one, all of its own, none of another's."""
        return torch.where(self.owner == MERGED, share, (self.owner == model).double())

    def reads(self, model: int) -> torch.Tensor:
        """``(n',)`` whether a model's row reads a column."""
        return ((self.owner == MERGED) | (self.owner == model)).double()


@dataclass(frozen=True)
class Partial:
    """Which units of a network stay separate.

    Attributes:
        spec: what may move, and so what may be separate.
        separate: group -> ``(units,)`` bool; a group that is left out is merged. A led group follows its leader.
        shares: of each model in what is merged; they sum to 1.
    """

    spec: PermutationSpec
    separate: Mapping[str, torch.Tensor]
    shares: Sequence[float]
    _places: dict[tuple[tuple[str | None, int], ...], Place] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults = []
        for name, mask in self.separate.items():
            group = self.spec.groups.get(name)
            if group is None:
                faults.append(Fault(f"separate.{name}", "there is no such group", did_you_mean(name, self.spec.groups)))
            elif group.leader is not None:
                faults.append(Fault(f"separate.{name}", f"its units follow {group.leader}", "Separate those."))
            elif mask.shape != (group.units,):
                faults.append(Fault(f"separate.{name}", f"is {tuple(mask.shape)}, and there are {group.units} units"))
        if faults:
            raise InputError(*faults)

    def place(self, parts: tuple[Part, ...]) -> Place:
        """The widened axis of an axis of these parts."""
        key = tuple((part.group, part.size) for part in parts)
        if key not in self._places:
            pieces, begin = [], 0
            for part in parts:
                piece = self._part(part)
                pieces.append(Place(piece.index + begin, piece.owner))
                begin += part.size
            index, owner = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("index", "owner"))
            self._places[key] = Place(index, owner)
        return self._places[key]

    def _part(self, part: Part) -> Place:
        root = self._root(part.group)
        numbers = torch.arange(part.size)
        if root is None or root not in self.separate:
            return Place(numbers, torch.full_like(numbers, MERGED))
        mask = self.separate[root].repeat_interleave(part.size // self.spec.groups[root].units)
        own = numbers[mask]
        models = range(len(self.shares))
        owner = [torch.full_like(numbers[~mask], MERGED), *(torch.full_like(own, model) for model in models)]
        return Place(torch.cat([numbers[~mask], *(own for _ in models)]), torch.cat(owner))

    def _root(self, name: str | None) -> str | None:
        return name if name is None else self.spec.groups[name].leader or name

    def blocks(self, name: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """One tensor of the merged network: what is merged writes the mean, what is separate its own model's.

        A merged row reads a separate column by that model's share, so that what all of them add up to is a mean: with
        everything separate, the outputs are the mean of the models' outputs exactly.

        Args:
            tensors: of each model, aligned, of one shape.
        """
        axes = self.spec.tensors[name]
        writing = writes(axes)
        total = torch.zeros(())
        for model, tensor in enumerate(tensors):
            made = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
            for axis, parts in enumerate(axes):
                place = self.place(parts)
                made = made.index_select(axis, place.index.to(made.device))
                if axis == writing:
                    factor = place.writes(model, self.shares[model])
                elif any(part.reads for part in parts):
                    factor = place.reads(model)
                else:
                    continue
                made = made * factor.to(made).view([-1 if k == axis else 1 for k in range(tensor.ndim)])
            total = total + made
        return total.to(tensors[0].dtype)

    def numbers(self, name: str) -> int:
        """How many of a tensor's numbers are not zero by construction: multiplications a token, of a matrix."""
        axes = self.spec.tensors[name]
        rows, rest = self.place(axes[writes(axes)]), 1
        columns: Place | None = None
        for axis, parts in enumerate(axes):
            if any(part.reads for part in parts):
                columns = self.place(parts)
            elif axis != writes(axes):
                rest *= sum(part.size for part in parts)
        total = 0
        for owner in range(MERGED, len(self.shares)):
            read = 1 if columns is None else len(columns.owner)
            if columns is not None and owner != MERGED:
                read = int(columns.reads(owner).sum())
            total += int((rows.owner == owner).sum()) * read
        return total * rest


def writes(axes: Axes) -> int:
    """The axis of a tensor that makes units: the first that does not read and follows a group, else the first."""
    free = [axis for axis, parts in enumerate(axes) if not any(part.reads for part in parts)]
    return max(free, key=lambda axis: any(part.group for part in axes[axis])) if free else 0


def merge_tensors(partial: Partial, models: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """All tensors of the merged network, by name; whole numbers, such as counters, are the first model's.

    Args:
        models: their tensors by name, aligned with the first's. Tensors that the specification leaves alone are
            averaged.
    """
    made: dict[str, torch.Tensor] = {}
    for name, tensor in models[0].items():
        every = [model[name] for model in models]
        if name in partial.spec.ties:
            continue
        if not tensor.is_floating_point():
            made[name] = tensor
        elif name in partial.spec.tensors:
            made[name] = partial.blocks(name, every)
        else:
            wide = [t.detach().double() * share for t, share in zip(every, partial.shares, strict=True)]
            made[name] = torch.stack(wide).sum(0).to(tensor.dtype)
    return made | {alias: made[name] for alias, name in partial.spec.ties.items() if alias in models[0]}


def unit_scores(spec: PermutationSpec, tables: Sequence[Table]) -> dict[str, torch.Tensor]:
    """How alike the units are that stand at one place: for each group that is seen, ``(units,)``.

    Args:
        tables: of aligned networks (:func:`truing.units.features.activation_tables`); the mean over a unit's numbers,
            and over the tables that see it.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for table in tables:
        root = table.source.group and (spec.groups[table.source.group].leader or table.source.group)
        if root:
            found.setdefault(root, []).append(table.scores.diagonal().view(spec.groups[root].units, -1).mean(1).cpu())
    return {root: torch.stack(several).mean(0) for root, several in found.items()}


def least_alike(scores: torch.Tensor, count: int) -> torch.Tensor:
    """``(units,)`` bool: the ``count`` units of the lowest scores ``(units,)``, the earlier of two that are level."""
    order = scores.double().argsort(stable=True)
    return torch.zeros(len(scores), dtype=torch.bool).index_fill(0, order[:count], True)


def allotted(
    spec: PermutationSpec,
    kinds: Mapping[str, Sequence[str]],
    worth: Mapping[str, float],
    budget: float,
    models: int,
    *,
    chunks: int,
) -> dict[str, int]:
    """How many units of each kind of group stay separate within a budget: greedily, by worth for what it costs.

    In place of the paper's quadratic programme: in each round, the kind whose next chunk brings the most worth times
    share of units a multiplication, until none fits.

    Args:
        kinds: groups of one size that are to have as many separate units each.
        worth: of each kind, what it is worth to have all of it separate, >= 0.
        budget: multiplications a token of all tensors that are described, times one model's, >= 1.
        models: how many are merged.
        chunks: a kind is separated in so many steps.

    Returns:
        kind -> units of each of its groups.
    """
    every = {name: axes for name, axes in spec.tensors.items() if name not in spec.ties}
    touched = {kind: [n for n, axes in every.items() if _roots(spec, axes) & set(kinds[kind])] for kind in kinds}
    sizes = {kind: spec.groups[kinds[kind][0]].units for kind in kinds}

    def cost(counts: Mapping[str, int], names: Iterable[str]) -> int:
        masks = {g: torch.arange(sizes[kind]) < counts[kind] for kind in counts for g in kinds[kind]}
        partial = Partial(spec, masks, [1 / models] * models)
        return sum(partial.numbers(name) for name in names)

    counts = dict.fromkeys(kinds, 0)
    spent = cost({}, every)
    most = budget * spent
    while True:
        offers = []
        for kind in kinds:
            more = min(sizes[kind] - counts[kind], -(-sizes[kind] // chunks))
            if more and worth[kind] > 0:
                price = cost({**counts, kind: counts[kind] + more}, touched[kind]) - cost(counts, touched[kind])
                if spent + price <= most:
                    offers.append((worth[kind] * more / sizes[kind] / max(price, 1), kind, more, price))
        if not offers:
            return counts
        _, kind, more, price = max(offers, key=lambda offer: offer[0])
        counts[kind] += more
        spent += price


def _roots(spec: PermutationSpec, axes: Axes) -> set[str]:
    """The groups without leader that a tensor follows."""
    return {spec.groups[p.group].leader or p.group for parts in axes for p in parts if p.group is not None}
