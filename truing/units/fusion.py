"""A network transported onto another by soft plans, layer by layer; the two may have other widths.

Units are compared by the weights that make them, inputs being in order already; the plan that is found moves them, and
what reads them. Where a soft mixture is no symmetry at all, heads and what queries and keys hold, plans stay hard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from truing.core.errors import Fault, InputError
from truing.core.lazy import torch
from truing.units.alignment import Family, Plans, Solver, solved
from truing.units.matching import ROUNDS, anchored, weight_tables, wide
from truing.units.permutations import Part, PermutationSpec
from truing.units.transport import emd, for_inputs, for_outputs, sinkhorn

Weights = Mapping[str, "torch.Tensor"]
Residual = Literal["skip", "branch", "mean", "identity"]
HARD = frozenset({"groups", "heads", "keys"})


def transported(
    source: PermutationSpec,
    target: PermutationSpec,
    other: Weights,
    anchor: Weights,
    *,
    regularisation: float,
    iterations: int,
    residual: Residual,
) -> dict[str, torch.Tensor]:
    """``other`` in the anchor's order and widths. Imfeld et al. 2024, arXiv:2310.05719; Singh and Jaggi 2020,
    arXiv:1910.05653.

    The cost between two units is the Euclidean distance of the weights that make them, over its greatest value. Output
    axes are moved by plans whose columns sum to one, input axes by plans whose rows do, so that widening by repeated
    units leaves the function as it was. A stream that runs through all layers has one plan, since what is added up
    must match; ``residual`` says where it is from.

    Args:
        source, target: what may move in each; the same but for sizes.
        regularisation: of the plans' entropy, in shares of the greatest cost; 0 is the exact plan.
        iterations: of Sinkhorn's algorithm.
        residual: ``skip``: the plan of a stream's first tensor, an embedding; ``branch``: from all that is added to it
            afterwards; ``mean`` of the two; ``identity``: it stays.

    Raises:
        InputError: the two are not of one kind, or one is not finite, or an identity between unequal widths.
    """
    _alike(source, target, other, anchor, residual)
    plans: Plans = {}

    def mover(name: str, axis: int, tensor: torch.Tensor) -> torch.Tensor:
        return carried(tensor, axis, source.tensors[name][axis], target.tensors[name][axis], source, target, plans)

    def solver(name: str) -> Solver:
        return exact if regularisation == 0 or name.split(".")[0] in HARD else _soft(regularisation, iterations)

    early: list[tuple[Family, set[str]]] = []
    for family, known in anchored(source, target):
        tables = weight_tables(family, anchor, other, mover, known=known, distances=True)
        if residual == "identity" and family.root.startswith("stream"):
            plans[family.root] = torch.eye(source.groups[family.root].units, dtype=torch.float64)
        elif tables:
            plans.update(solved(family, tables, solver, ROUNDS))
            early.append((family, {table.name for table in tables}))
    for family, seen in early if residual in ("branch", "mean") else ():
        tables = [t for t in weight_tables(family, anchor, other, mover, distances=True) if t.name not in seen]
        if tables:
            branch = solved(family, tables, solver, ROUNDS)
            for name, plan in branch.items():
                plans[name] = plan if residual == "branch" else (plan + plans[name]) / 2
    made = {}
    for name, tensor in other.items():
        moved = wide(tensor) if name in source.tensors else tensor
        for axis in range(len(source.tensors.get(name, ()))):
            moved = mover(name, axis, moved)
        made[name] = moved.reshape(anchor[name].shape).to(tensor.dtype) if name in source.tensors else tensor
    return made | {alias: made[name] for alias, name in source.ties.items() if alias in made and name in made}


def fused(anchor: Weights, donors: list[dict[str, torch.Tensor]], weight: float) -> dict[str, torch.Tensor]:
    """``(1 - weight)`` of the anchor and ``weight`` of the mean of donors that are in its order."""
    made = {}
    for name, tensor in anchor.items():
        if not tensor.is_floating_point():
            made[name] = tensor
            continue
        own = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
        mean = torch.stack([donor[name].detach().to(own) for donor in donors]).mean(0)
        made[name] = (own + weight * (mean - own)).to(tensor.dtype)
    return made


def exact(plain: torch.Tensor, signed: torch.Tensor | None, fixed: int) -> torch.Tensor:
    """The cheapest plan of all; what keeps its place does."""
    total = plain if signed is None else plain + signed
    plan = torch.zeros_like(total)
    plan[:fixed, :fixed] = torch.eye(fixed, dtype=total.dtype)
    rest = total[fixed:, fixed:]
    plan[fixed:, fixed:] = emd((-rest).clamp(min=0).sqrt()) * len(rest)
    return plan


def _soft(regularisation: float, iterations: int) -> Solver:
    def solve(plain: torch.Tensor, signed: torch.Tensor | None, fixed: int) -> torch.Tensor:
        total = plain if signed is None else plain + signed
        cost = (-total).clamp(min=0).sqrt()
        cost = cost / cost.max().clamp(min=1e-300)
        return sinkhorn(cost, regularisation=regularisation, iterations=iterations) * len(cost)

    return solve


def carried(
    tensor: torch.Tensor,
    axis: int,
    parts: tuple[Part, ...],
    targets: tuple[Part, ...],
    source: PermutationSpec,
    target: PermutationSpec,
    plans: Plans,
) -> torch.Tensor:
    """A tensor with an axis moved by plans, part by part; what has no plan stays."""
    if all(part.group is None for part in parts):
        return tensor
    pieces, begin = [], 0
    for part, other in zip(parts, targets, strict=True):
        piece = tensor.narrow(axis, begin, part.size)
        if part.group in plans:
            matrix = _matrix(part, other, source, target, plans).to(piece)
            piece = torch.tensordot(piece.movedim(axis, -1), matrix, dims=1).movedim(-1, axis)
        pieces.append(piece)
        begin += part.size
    return torch.cat(pieces, axis)


def _matrix(part: Part, other: Part, source: PermutationSpec, target: PermutationSpec, plans: Plans) -> torch.Tensor:
    """``(size of source, size of target)``: a plan of units, times a plan inside them for every pair."""
    even: Callable[[torch.Tensor], torch.Tensor] = for_inputs if part.reads else for_outputs
    name = part.group or ""
    leader = source.groups[name].leader
    root = even(plans[leader or name])
    shape = root.shape
    heads = even(plans[name]) if leader else torch.ones(*shape, 1, 1, dtype=root.dtype)
    if part.inner:
        inside = even(plans[part.inner])
    else:
        width = part.size // source.groups[name].units
        inside = torch.eye(width, dtype=root.dtype).expand(*shape, width, width)
    whole = torch.einsum("rs,rsgh,rscd->rgcshd", root, heads, inside)
    return whole.reshape(part.size, other.size)


def _alike(
    source: PermutationSpec, target: PermutationSpec, other: Weights, anchor: Weights, residual: Residual
) -> None:
    faults = []
    for side, spec, weights in (("donor", source, other), ("anchor", target, anchor)):
        faults += [Fault(side, line) for line in spec.mismatches({k: tuple(v.shape) for k, v in weights.items()})]
        odd = [k for k in spec.tensors if k in weights and not bool(weights[k].isfinite().all())]
        faults += [Fault(side, f"{name} holds a value that is not finite") for name in odd[:3]]
    if source.tensors.keys() != target.tensors.keys() or source.groups.keys() != target.groups.keys():
        odd = sorted(source.tensors.keys() ^ target.tensors.keys()) or sorted(
            source.groups.keys() ^ target.groups.keys()
        )
        faults.append(
            Fault("donor", f"is another kind of network: see {odd[:3]}", "Depth and architecture must agree.")
        )
        raise InputError(*faults)
    for name, axes in source.tensors.items():
        for parts, others in zip(axes, target.tensors[name], strict=True):
            for part, there in zip(parts, others, strict=True):
                width, wanted = (
                    p.size // spec.groups[p.group].units if p.group else p.size
                    for p, spec in ((part, source), (there, target))
                )
                if width != wanted and part.inner is None:
                    what = f"{width} numbers for each of {part.group}" if part.group else f"{width} numbers"
                    mend = "Only widths that can be matched may differ: neurons, the stream, how many heads there are."
                    faults.append(Fault(f"donor.{name}", f"has {what} where the anchor has {wanted}", mend))
    for name, group in source.groups.items():
        if residual == "identity" and name.startswith("stream") and group.units != target.groups[name].units:
            faults.append(Fault("residual", "an identity between streams of unequal widths", "Use 'skip'."))
    if faults:
        raise InputError(*faults[:5])
