"""Which units of a network can change places without changing what it computes, and what that does to its tensors.

A group is a set of units that move together wherever they are met: the neurons of an MLP, the dimensions of a
residual stream, the heads of an attention. A specification says, for every axis of every tensor, which group it
follows. The group law is that of the orders: apply, invert, compose. What a specification has no group for cannot be
moved at all, so that an order that would change the function has no way to be written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.lazy import torch
from truing.core.rng import Rng


@dataclass(frozen=True)
class Group:
    """Units that can change places.

    Attributes:
        name: e.g. ``neurons.3``.
        units: how many.
        leader: the group of larger units that these are the inside of; they then move only with their leader's unit
            and within it: the query heads of a KV group, the dimensions of a head. None where any order will do.
        fixed: of the units inside each of the leader's, this many keep their place: dimensions with rotary positions.
        signed: whether a unit may also change its sign.
    """

    name: str
    units: int
    leader: str | None = None
    fixed: int = 0
    signed: bool = False


@dataclass(frozen=True)
class Part:
    """A stretch of an axis.

    Attributes:
        size: how many numbers.
        group: whose units it lists, ``size // units`` numbers a unit; None where nothing may move.
        inner: the group that the numbers of one unit follow in turn: the dimensions of a head. Where its leader has
            fewer units than ``group``, neighbours share: the query heads of a KV group read the same values.
        signed: whether a change of sign shows here; it does not in the weight of an RMS norm.
        reads: whether the numbers are what units are multiplied by, rather than what makes them: an input axis.
    """

    size: int
    group: str | None = None
    inner: str | None = None
    signed: bool = True
    reads: bool = False


Axes = tuple[tuple[Part, ...], ...]
"""The parts of every axis of a tensor, in the order in which it is stored."""


@dataclass(frozen=True, eq=False)
class Order:
    """Where units go.

    Attributes:
        index: ``(units,)`` int64, the unit that comes to stand at each place.
        sign: ``(units,)`` int64 of 1 and -1, what each place is multiplied by once it is filled; None for no change.
    """

    index: torch.Tensor
    sign: torch.Tensor | None = None

    @property
    def signs(self) -> torch.Tensor:
        """``(units,)``, ones where nothing changes its sign."""
        return torch.ones_like(self.index) if self.sign is None else self.sign

    def same(self, other: Order) -> bool:
        """Whether the two are one order, signs included."""
        return torch.equal(self.index, other.index) and torch.equal(self.signs, other.signs)


Permutation = Mapping[str, Order]
"""An order for each group; a group that is left out follows its leader, or stays."""


@dataclass(frozen=True)
class PermutationSpec:
    """What may move in a network.

    Attributes:
        groups: by name, a leader before those it leads.
        tensors: the axes of each tensor; a tensor that is not named is left alone.
        ties: tensors that are another one under a second name.
        silent: tensors that move along and do not tell which unit is which: running statistics.
        immovable: why there is no group of a name that one might look for.
    """

    groups: Mapping[str, Group]
    tensors: Mapping[str, Axes]
    ties: Mapping[str, str] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    immovable: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def families(self) -> tuple[tuple[Group, ...], ...]:
        """Each group without leader, with those that it leads: what must be solved for together."""
        roots = [group for group in self.groups.values() if group.leader is None]
        return tuple((root, *(g for g in self.groups.values() if g.leader == root.name)) for root in roots)

    def inside(self, group: Group) -> int:
        """How many units of a group lie in each of its leader's; all of them where it has none."""
        return group.units if group.leader is None else group.units // self.groups[group.leader].units

    def mismatches(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Where tensors are not as described, in words; empty where all fits. A tied tensor may be absent."""
        said = []
        for name, axes in self.tensors.items():
            shape = tuple(sum(part.size for part in parts) for parts in axes)
            if name not in shapes:
                said += [] if name in self.ties else [f"{name} is missing"]
            elif tuple(shapes[name]) != shape:
                said.append(f"{name} is {tuple(shapes[name])}, not {shape}")
        return tuple(said)

    def faults(self, permutation: Permutation) -> list[Fault]:
        """Everything in which an order is none of this network's."""
        found = []
        for name, order in permutation.items():
            if name not in self.groups:
                reason = self.immovable.get(name.split(".")[0], "there is no such group")
                found.append(Fault(f"permutation.{name}", reason, did_you_mean(name, self.groups)))
            elif fact := self._fault(self.groups[name], order, permutation):
                found.append(Fault(f"permutation.{name}", fact))
        return found

    def _fault(self, group: Group, order: Order, permutation: Permutation) -> str:
        places = torch.arange(group.units)
        if order.index.shape != places.shape or not torch.equal(order.index.cpu().sort().values, places):
            return f"this is no order of {group.units} units"
        if order.sign is not None:
            if not group.signed and bool((order.sign != 1).any()):
                return "its units cannot change their sign"
            if order.sign.shape != places.shape or bool((order.sign.abs() != 1).any()):
                return f"signs are {group.units} numbers of 1 and -1"
        if group.leader is None:
            return ""
        size = self.inside(group)
        rows = order.index.cpu().view(-1, size)
        leader = permutation.get(group.leader)
        wanted = torch.arange(len(rows)) if leader is None else leader.index.cpu()
        if len(wanted) == len(rows) and bool((rows // size != wanted[:, None]).any()):
            return (
                f"units leave their {group.leader.split('.')[0]}: each {size} stay together and follow {group.leader}"
            )
        if bool((rows[:, : group.fixed] % size != torch.arange(group.fixed)).any()):
            return f"the first {group.fixed} of every {size} have rotary positions, and each pair turns at its own rate"
        return ""

    def complete(self, permutation: Permutation) -> dict[str, Order]:
        """The same with an order for every group.

        Raises:
            InputError: it is no order of this network; every fault at once.
        """
        if faults := self.faults(permutation):
            raise InputError(*faults)
        made = dict(permutation)
        for name, group in self.groups.items():
            if name not in made:
                size = self.inside(group)
                outer = made[group.leader].index if group.leader else torch.zeros(1, dtype=torch.int64)
                made[name] = Order((outer.cpu()[:, None] * size + torch.arange(size)).flatten())
        return made

    def along(self, parts: tuple[Part, ...], permutation: Permutation) -> Order | None:
        """The order of single numbers along an axis; None where nothing of it moves.

        Args:
            parts: of one axis.
            permutation: with an order for every group.
        """
        if all(part.group is None for part in parts):
            return None
        pieces, begin = [], 0
        for part in parts:
            piece = self._within(part, permutation)
            pieces.append(Order(piece.index + begin, piece.signs))
            begin += part.size
        return Order(torch.cat([p.index for p in pieces]), torch.cat([p.signs for p in pieces]))

    def _within(self, part: Part, permutation: Permutation) -> Order:
        if part.group is None:
            return Order(torch.arange(part.size))
        outer, width = permutation[part.group], part.size // self.groups[part.group].units
        inner = torch.arange(width).expand(len(outer.index), width)
        sign = outer.signs[:, None].expand_as(inner)
        if part.inner is not None:
            order = permutation[part.inner]
            share = len(outer.index) * width // len(order.index)
            inner = (order.index % width).view(-1, width).repeat_interleave(share, 0)
            sign = sign * order.signs.view(-1, width).repeat_interleave(share, 0)
        index = (outer.index[:, None] * width + inner).flatten()
        return Order(index, sign.flatten() if part.signed else torch.ones_like(index))


def apply(
    spec: PermutationSpec, permutation: Permutation, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The same function with its units in another order. Tensors that are not touched are shared.

    Args:
        weights: by name; others than the specification's pass through.

    Raises:
        InputError: the order is none of this network's, or a tensor has another shape; every fault at once.
    """
    whole = spec.complete(permutation)
    odd = [line for line in spec.mismatches({k: tuple(v.shape) for k, v in weights.items()}) if "missing" not in line]
    if odd:
        raise InputError(*(Fault("weights", line) for line in odd))
    made = dict(weights)
    for name, axes in spec.tensors.items():
        if name in made and name not in spec.ties:
            for axis, parts in enumerate(axes):
                made[name] = moved(made[name], axis, spec.along(parts, whole))
    return made | {alias: made[name] for alias, name in spec.ties.items() if alias in made and name in made}


def moved(tensor: torch.Tensor, axis: int, order: Order | None) -> torch.Tensor:
    """A tensor with an axis in another order."""
    if order is None:
        return tensor
    taken = tensor.index_select(axis, order.index.to(tensor.device))
    if order.sign is None or bool((order.sign == 1).all()):
        return taken
    shape = [-1 if i == axis else 1 for i in range(tensor.ndim)]
    return taken * order.sign.to(taken).view(shape)


def invert(permutation: Permutation) -> dict[str, Order]:
    """What puts every unit back."""
    made = {}
    for name, order in permutation.items():
        back = order.index.argsort()
        made[name] = Order(back, None if order.sign is None else order.sign[back])
    return made


def compose(spec: PermutationSpec, first: Permutation, then: Permutation) -> dict[str, Order]:
    """The order that does what ``first`` and then ``then`` do.

    Raises:
        InputError: one of them is no order of this network.
    """
    left, right = spec.complete(first), spec.complete(then)
    return {
        name: Order(left[name].index[order.index], order.signs * left[name].signs[order.index])
        for name, order in right.items()
    }


def random(spec: PermutationSpec, rng: Rng) -> dict[str, Order]:
    """An order of every group, each legal one as likely, signs included where a group has them."""
    made: dict[str, Order] = {}
    for name, group in spec.groups.items():
        numbers, size = rng.child(name).numpy(), spec.inside(group)
        outer = made[group.leader].index.tolist() if group.leader else [0]
        rows = []
        for unit in outer:
            free = group.fixed + numbers.permutation(size - group.fixed)
            rows += [unit * size + i for i in (*range(group.fixed), *free.tolist())]
        sign = torch.from_numpy(1 - 2 * numbers.integers(0, 2, group.units)) if group.signed else None
        made[name] = Order(torch.tensor(rows), sign)
    return made


def same(spec: PermutationSpec, left: Permutation, right: Permutation) -> bool:
    """Whether two orders of a network are one, to the last unit and sign."""
    ours, theirs = spec.complete(left), spec.complete(right)
    return all(order.same(theirs[name]) for name, order in ours.items())
