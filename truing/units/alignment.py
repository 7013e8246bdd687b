"""Which unit of one network is which of another: families of groups solved from how alike their units are.

The evidence is a table a place where units show: for every number of the source's axis and every number of the
target's, how alike they are. Tables of weights are inner products of rows; tables of activations are correlations.
Groups that hang together, as heads, the dimensions within them and the KV groups around them, are solved together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truing.core.lazy import torch
from truing.units.permutations import Group, Order, Part, Permutation, PermutationSpec
from truing.units.transport import assignment

Plans = dict[str, "torch.Tensor"]
"""``(M, N)`` for a group without leader, from source to target, signs included; ``(M', N', m, n)`` for one with a
leader: a plan inside for every pair of the leader's units."""

Solver = Callable[["torch.Tensor", "torch.Tensor | None", int], "torch.Tensor"]
"""From how alike units are, ``(M, N)``, the same where a change of sign shows or None, and how many units keep their
place, to a plan ``(M, N)`` whose entries sum to ``M``."""


@dataclass(frozen=True)
class Table:
    """How alike the numbers along an axis are.

    Attributes:
        source, target: the parts of the axis, on both sides; the same but for their sizes.
        scores: ``(size of source, size of target)``, more is more alike.
        name: of the tensor, or of the place.
    """

    source: Part
    target: Part
    scores: torch.Tensor
    name: str = ""


@dataclass(frozen=True)
class Family:
    """Groups that are solved together, on both sides.

    Attributes:
        groups: names: the one without leader first.
        source, target: the two networks.
    """

    groups: tuple[str, ...]
    source: PermutationSpec
    target: PermutationSpec

    @property
    def root(self) -> str:
        """The group without leader."""
        return self.groups[0]

    def group(self, name: str) -> Group:
        """A group, of the source."""
        return self.source.groups[name]

    def shaped(self, table: Table) -> torch.Tensor:
        """A table as ``(R, H, w, R', H', w')``: units of the root, of ``part.group`` inside, numbers of each."""
        shape = []
        for spec, part in ((self.source, table.source), (self.target, table.target)):
            name = part.group or ""
            outer, units = spec.groups[self.root].units, spec.groups[name].units
            shape += [outer, units // outer, part.size // units]
        return table.scores.view(shape)


def solved(family: Family, tables: Sequence[Table], solver: Callable[[str], Solver], rounds: int) -> Plans:
    """The plans of a family from all that is known of it.

    Without followers it is one assignment. With them, every pair of the root's units is solved for on its inside, by
    turns: heads given the dimensions within them, dimensions given the heads; then the root from the totals.

    Args:
        solver: for a group by name.
        rounds: of turns.
    """
    shaped = [(table, family.shaped(table)) for table in tables]
    if len(family.groups) == 1:
        rooted = [(t, s[:, 0, :, :, 0, :].diagonal(dim1=1, dim2=3).sum(-1).double()) for t, s in shaped]
        return {family.root: _assigned(family, family.root, rooted, solver)}
    sizes = tuple(spec.groups[family.root].units for spec in (family.source, family.target))
    insides = [[_inside(family, shaped, j, i, solver, rounds) for i in range(sizes[1])] for j in range(sizes[0])]
    totals = torch.tensor([[total for _, total in row] for row in insides], dtype=torch.float64)
    plans: Plans = {family.root: solver(family.root)(totals, None, 0)}
    for name in family.groups[1:]:
        plans[name] = torch.stack([torch.stack([found[name] for found, _ in row]) for row in insides])
    return plans


def _assigned(
    family: Family, name: str, known: Sequence[tuple[Table, torch.Tensor]], solver: Callable[[str], Solver]
) -> torch.Tensor:
    """A group's plan from what each table says of it; everything to everything where none says anything."""
    group = family.group(name)
    if not known:
        rows, columns = (spec.inside(spec.groups[name]) for spec in (family.source, family.target))
        return torch.full((rows, columns), 1 / columns, dtype=torch.float64)
    zero = torch.zeros_like(known[0][1])
    signed = [scores for table, scores in known if table.source.signed and group.signed]
    plain = [scores for table, scores in known if not (table.source.signed and group.signed)]
    return solver(name)(sum(plain, zero), sum(signed, zero) if signed else None, group.fixed)


def _inside(
    family: Family,
    shaped: Sequence[tuple[Table, torch.Tensor]],
    j: int,
    i: int,
    solver: Callable[[str], Solver],
    rounds: int,
) -> tuple[Plans, float]:
    """Plans inside one pair of the root's units, and how alike the two are with them."""
    cut = [(table, scores[j, :, :, i].double()) for table, scores in shaped]
    found: Plans = {}
    for _ in range(rounds):
        before = dict(found)
        for name in family.groups[1:]:
            terms = [(table, _for(name, table, scores, found)) for table, scores in cut]
            found[name] = _assigned(family, name, [(t, term) for t, term in terms if term is not None], solver)
        if before and all(torch.equal(before[name], found[name]) for name in found):
            break
    named = {group for table, _ in cut for group in (table.source.group, table.source.inner)}
    for name in family.groups[1:]:
        if name not in named:  # nothing is known of it: it stays
            found[name] = torch.eye(*found[name].shape, dtype=torch.float64)
    return found, sum(float(_all(table, scores, found).sum()) for table, scores in cut)


def _for(name: str, table: Table, scores: torch.Tensor, found: Plans) -> torch.Tensor | None:
    """What a table ``(H, w, H', w')`` says of one group, given the other plan; None where it says nothing yet."""
    part = table.source
    if part.group == name:
        if part.inner is None:
            return scores.diagonal(dim1=1, dim2=3).sum(-1)
        return torch.einsum("hckd,cd->hk", scores, found[part.inner]) if part.inner in found else None
    if part.inner == name:
        if part.group in found:
            return torch.einsum("hckd,hk->cd", scores, found[part.group].abs())
        return scores[0, :, 0] if scores.shape[0] == scores.shape[2] == 1 else None
    return None


def _all(table: Table, scores: torch.Tensor, found: Plans) -> torch.Tensor:
    """``(H, H')`` of a table under the plans inside: its diagonal sums to how alike two units of the root are."""
    inner = table.source.inner
    if inner is None:
        kept = scores.diagonal(dim1=1, dim2=3).sum(-1)
    else:
        plan = found[inner]
        kept = torch.einsum("hckd,cd->hk", scores, plan if table.source.signed else plan.abs())
    outer = found.get(table.source.group or "")
    return kept if outer is None else kept * outer


def hard(plain: torch.Tensor, signed: torch.Tensor | None, fixed: int) -> torch.Tensor:
    """The best order of all, as a plan of zeros and ones; -1 where a unit had better change its sign."""
    total = plain if signed is None else plain + signed.abs()
    plan = torch.zeros_like(total)
    places = torch.arange(len(total))
    source = torch.cat([places[:fixed], fixed + assignment(total[fixed:, fixed:])])
    plan[source, places] = 1
    return plan if signed is None else torch.where(signed < 0, -plan, plan)


def orders(family: Family, plans: Plans) -> dict[str, Order]:
    """Plans of zeros, ones and minus ones as orders of units."""
    outer = plans[family.root].abs().argmax(0)
    made = {family.root: _order(family.group(family.root), plans[family.root])}
    for name in family.groups[1:]:
        inside = [_order(family.group(name), plans[name][j, i]) for i, j in enumerate(outer.tolist())]
        size = family.source.inside(family.group(name))
        index = torch.cat([order.index + int(j) * size for order, j in zip(inside, outer, strict=True)])
        made[name] = Order(index, torch.cat([order.signs for order in inside]) if family.group(name).signed else None)
    return made


def _order(group: Group, plan: torch.Tensor) -> Order:
    index = plan.abs().argmax(0)
    sign = plan[index, torch.arange(len(index))].sign().to(torch.int64)
    return Order(index, sign if group.signed else None)


def agreement(spec: PermutationSpec, tables: Sequence[Table], permutation: Permutation) -> float:
    """How alike two networks of one size are under an order: the sum over all tables."""
    total = 0.0
    for table in tables:
        order = spec.along((table.source,), permutation)
        if order is not None:
            picked = table.scores[order.index, torch.arange(table.target.size)].double()
            total += float((picked * order.signs).sum())
    return total


def unit_scores(spec: PermutationSpec, group: str, tables: Sequence[Table], permutation: Permutation) -> torch.Tensor:
    """How alike each unit of the target is to the one that was given its place, ``(units,)`` float64.

    What partial matching sorts units by. Only tables that the group itself orders count, not those it is inside of.
    """
    total = torch.zeros(spec.groups[group].units, dtype=torch.float64)
    for table in tables:
        if table.source.group == group:
            order = spec.along((table.source,), permutation)
            if order is not None:
                picked = table.scores[order.index, torch.arange(table.target.size)].double() * order.signs
                total += picked.view(len(total), -1).sum(1)
    return total


def families(source: PermutationSpec, target: PermutationSpec) -> tuple[Family, ...]:
    """The families of two networks of one shape, whose sizes may differ."""
    return tuple(Family(tuple(group.name for group in family), source, target) for family in source.families)
