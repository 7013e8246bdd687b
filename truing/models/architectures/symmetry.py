"""What leaves a described model's function as it is: orders of its units, and turns and scales, which are no order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.models.architecture import Architecture
from truing.models.architectures.layout import Role, Slot, Span
from truing.units.permutations import Axes, Group, Part, PermutationSpec


def permutations(architecture: Architecture) -> PermutationSpec:
    """The orders that an architecture allows.

    ``stream``: the residual stream, one order through all blocks, because what is added up must match; signed under RMS
    norms, whose weight a sign does not reach. ``neurons.I`` of block I; a gated MLP's may change sign in ``up`` and
    ``down``. ``groups.I``: KV groups, each with its query heads; ``heads.I``: query heads within their group;
    ``values.I``: dimensions of what a KV head carries. ``keys.I``: dimensions of queries and keys, together, where
    they have no rotary position; those that have one cannot change places: each pair turns at its own rate.
    ``experts.I``: the experts of a mixture, with their rows of the router; ``shared.I``: neurons of the MLP beside
    them. The neurons inside an expert have an order for each expert, and are left out. The vocabulary stays: that
    anchors all the rest.

    Raises:
        InputError: the architecture is not described.
    """
    architecture.require("matching")
    groups = {group.name: group for group in _groups(architecture)}
    immovable = {"vocabulary": "the vocabulary's order is the tokenizer's"}
    if not any(name.startswith("keys.") for name in groups):
        immovable["keys"] = "dimensions of queries and keys have rotary positions or a norm, and cannot change places"
    return PermutationSpec(
        groups=groups,
        tensors={slot.name: _axes(slot, groups) for slot in architecture.slots},
        ties={slot.name: slot.tied_to for slot in architecture.slots if slot.tied_to},
        immovable=immovable,
    )


def _groups(a: Architecture) -> Iterator[Group]:
    s = a.sizes
    yield Group("stream", s.hidden, signed=a.norm is not None and a.norm.kind == "rms")
    for block in a.blocks:
        i, wide, turned = block.index, s.kv_heads * s.head_dim, block.rope.dimensions if block.rope else 0
        leader = f"groups.{i}"
        yield Group(leader, s.kv_heads)
        if s.heads > s.kv_heads:
            yield Group(f"heads.{i}", s.heads, leader)
        yield Group(f"values.{i}", wide, leader, signed=True)
        if turned < s.head_dim and not a.qk_norm:
            yield Group(f"keys.{i}", wide, leader, fixed=turned, signed=turned == 0)
        if i not in a.mixtures:
            yield Group(f"neurons.{i}", s.intermediate, signed=a.gated)
            continue
        yield Group(f"experts.{i}", s.experts)
        if s.shared_neurons:
            yield Group(f"shared.{i}", s.shared_neurons)


def _axes(slot: Slot, groups: Mapping[str, Group]) -> Axes:
    made: list[tuple[Part, ...]] = []
    writes = {"embedding", "position_embedding"}.isdisjoint(slot.roles)
    for axis, spans in enumerate(slot.axes):
        roles = slot.roles if len(slot.roles) == len(spans) else slot.roles[:1] * len(spans)
        reads = (slot.matrix and axis != slot.out and writes) or axis == 2  # a mixture's first axis is its experts
        made.append(
            tuple(_part(slot.block, span, role, reads, groups) for span, role in zip(spans, roles, strict=True))
        )
    return tuple(made)


def _part(block: int | None, span: Span, role: Role, reads: bool, groups: Mapping[str, Group]) -> Part:
    heads = f"heads.{block}" if f"heads.{block}" in groups else f"groups.{block}"
    keys = f"keys.{block}" if f"keys.{block}" in groups else None
    group, inner = {
        "stream": ("stream", None),
        "neurons": (f"neurons.{block}", None),
        "queries": (heads, keys),
        "keys": (f"groups.{block}", keys),
        "values": (f"groups.{block}", f"values.{block}"),
        "attended": (heads, f"values.{block}"),
        "experts": (f"experts.{block}", None),
        "shared_neurons": (f"shared.{block}", None),
    }.get(span.space, (None, None))
    return Part(
        span.size, group, inner, signed=not (role.endswith("norm") or (role == "gate" and not reads)), reads=reads
    )


def turned(
    architecture: Architecture, weights: Mapping[str, torch.Tensor], block: int, factors: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The same function with pairs of rotary dimensions turned and stretched: queries by ``c``, keys by its inverse.

    A pair is one complex number, whose rotary turn is a factor; so a factor of a query's pair is undone by one over
    its conjugate on the key's, at whatever distance. The same for all query heads that a KV head serves.

    Args:
        factors: ``(KV heads, rotary dimensions / 2)`` complex, none of them 0.

    Raises:
        InputError: there are no rotary positions, queries and keys have a norm, or the factors do not fit.
    """
    architecture.require("matching")
    s, rope = architecture.sizes, architecture.blocks[block].rope
    if rope is None or architecture.qk_norm:
        reason = "no rotary positions" if rope is None else "a norm of queries and keys, which sees their lengths"
        raise bad(architecture.model_type, f"has {reason}", "Order keys instead, where the specification has them.")
    if factors.shape != (s.kv_heads, rope.dimensions // 2) or bool((factors == 0).any()):
        fact = f"are {tuple(factors.shape)}, or one is 0"
        raise bad("factors", fact, f"Give {(s.kv_heads, rope.dimensions // 2)} numbers other than 0.")
    first, second = (torch.tensor(pair) for pair in zip(*rope.pairs, strict=True))
    made = dict(weights)
    both: dict[Role, torch.Tensor] = {
        "q": factors.repeat_interleave(s.heads // s.kv_heads, 0),
        "k": 1 / factors.conj(),
    }
    for role, by in both.items():
        for view in _roles(architecture, made, role, block):
            heads = view.unflatten(0, (-1, s.head_dim))
            pair = torch.complex(heads[:, first], heads[:, second])
            pair = pair * by.to(pair).view(*by.shape, *[1] * (pair.ndim - 2))
            heads[:, first], heads[:, second] = pair.real, pair.imag
    return made


def scaled(
    architecture: Architecture, weights: Mapping[str, torch.Tensor], block: int, factors: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The same function with a gated MLP's ``up`` multiplied by a factor a neuron, and ``down`` divided by it.

    Args:
        factors: ``(neurons,)``, none of them 0.

    Raises:
        InputError: the MLP has no gate, so that its non-linearity sees the factor; or the factors do not fit.
    """
    architecture.require("matching")
    if not architecture.gated or block in architecture.mixtures:
        raise bad(architecture.model_type, "its MLP has no gate beside which a neuron could be scaled")
    size = architecture.sizes.intermediate
    if factors.shape != (size,) or bool((factors == 0).any()):
        raise bad("factors", f"are {tuple(factors.shape)}, or one is 0", f"Give {size} numbers other than 0.")
    made = dict(weights)
    for view in _roles(architecture, made, "up", block):
        view.mul_(factors.to(view).view(-1, *[1] * (view.ndim - 1)))
    for view in _roles(architecture, made, "down", block)[:1]:
        view.div_(factors.to(view))
    return made


def _roles(a: Architecture, made: dict[str, torch.Tensor], role: Role, block: int) -> list[torch.Tensor]:
    """A role's weight and bias, where it has one, as views of fresh copies that are put into ``made``."""
    views = []
    for kind in ("weight", "bias"):
        slot = a.slot(role, block, kind)
        if slot is not None:
            made[slot.name] = made[slot.name].clone()
            view = a.read(made, role, block, kind)
            views += [] if view is None else [view]
    return views
