"""Which reorderings of a model's inner units leave what it computes as it is, and how to apply one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.models.architecture import Architecture
from truing.models.architectures.layout import Axis, Sizes, Space

Name = Literal["neurons", "heads", "groups", "values", "stream"]


@dataclass(frozen=True)
class Symmetry:
    """One kind of reordering.

    Attributes:
        name: ``neurons`` of an MLP; query ``heads`` within their KV group; whole KV ``groups``; dimensions of
            ``values`` within a KV head; dimensions of the residual ``stream``, through all blocks at once.
        count: how many units an index lists.
        span: an index maps each run of this many units into itself; equal to ``count`` where any order will do.
        per_block: whether each block has one of its own.
        spaces: the axes that it reorders.
    """

    name: Name
    count: int
    span: int
    per_block: bool
    spaces: frozenset[Space]


def symmetries(architecture: Architecture) -> tuple[Symmetry, ...]:
    """The reorderings that an architecture allows; those of one unit alone are left out.

    With rotary positions the dimensions of queries and keys have no order to change: each pair turns at its own
    rate (:attr:`Rope.pairs`). With a tied head the stream's reordering takes embedding and head together.

    Raises:
        InputError: the architecture is not described.
    """
    architecture.require("matching")
    s = architecture.sizes
    found = (
        Symmetry("neurons", s.intermediate, s.intermediate, True, frozenset({"neurons"})),
        Symmetry("heads", s.heads, s.heads // s.kv_heads, True, frozenset({"queries", "attended"})),
        Symmetry("groups", s.kv_heads, s.kv_heads, True, frozenset({"queries", "keys", "values", "attended"})),
        Symmetry("values", s.kv_heads * s.head_dim, s.head_dim, True, frozenset({"values", "attended"})),
        Symmetry("stream", s.hidden, s.hidden, False, frozenset({"stream"})),
    )
    return tuple(symmetry for symmetry in found if symmetry.span > 1)


def permuted(
    architecture: Architecture,
    weights: Mapping[str, torch.Tensor],
    name: Name,
    index: torch.Tensor,
    block: int | None = None,
) -> dict[str, torch.Tensor]:
    """The same function with its units in another order. Tensors that are not touched are shared.

    Args:
        weights: by full name; others than the description's pass through.
        index: ``(count,)`` int64, the unit that comes to stand at each place.
        block: which block; None for the stream, which runs through all.

    Raises:
        InputError: the architecture has no such symmetry, or the index is not one of it.
    """
    known = {symmetry.name: symmetry for symmetry in symmetries(architecture)}
    if name not in known:
        raise bad("symmetry", f"{architecture.model_type} has no {name} to reorder", f"It has: {', '.join(known)}.")
    symmetry = known[name]
    if symmetry.per_block != (block is not None and 0 <= block < architecture.sizes.blocks):
        raise bad("block", f"{name} with block {block}", "Name a block of the model, and none for the stream.")
    places = torch.arange(symmetry.count)
    whole = index.shape == places.shape and bool((index.sort().values == places).all())
    if not whole or bool((index // symmetry.span != places // symmetry.span).any()):
        fact = f"this is no order of {symmetry.count} {name}"
        raise bad("index", fact, "" if symmetry.span == symmetry.count else f"Stay within runs of {symmetry.span}.")
    order = _orders(architecture.sizes)[name]
    made = dict(weights)
    for slot in architecture.slots:
        if slot.block == block or not symmetry.per_block:
            for axis, spans in enumerate(slot.axes):
                if slot.name in made and any(span.space in symmetry.spaces for span in spans):
                    take = _take(spans, symmetry, order, index).to(made[slot.name].device)
                    made[slot.name] = made[slot.name].index_select(axis, take)
        if slot.tied_to and slot.name in made:
            made[slot.name] = made[slot.tied_to]
    return made


Order = Callable[[Space, "torch.Tensor"], "torch.Tensor"]


def _orders(s: Sizes) -> dict[Name, Order]:
    """For each symmetry, the order of single numbers in a space that follows from the order of units."""
    group = s.heads // s.kv_heads

    def values(space: Space, index: torch.Tensor) -> torch.Tensor:
        inner = index.view(s.kv_heads, s.head_dim) % s.head_dim
        if space == "attended":  # every head of a group reads the group's values
            inner = inner.repeat_interleave(group, 0)
        return (inner + torch.arange(len(inner))[:, None] * s.head_dim).flatten()

    return {
        "neurons": lambda space, index: index,
        "stream": lambda space, index: index,
        "heads": lambda space, index: _wide(index, s.head_dim),
        "groups": lambda space, index: _wide(index, s.head_dim * (group if space in {"queries", "attended"} else 1)),
        "values": values,
    }


def _wide(index: torch.Tensor, size: int) -> torch.Tensor:
    return (index[:, None] * size + torch.arange(size)).flatten()


def _take(spans: Axis, symmetry: Symmetry, order: Order, index: torch.Tensor) -> torch.Tensor:
    """The order along a whole axis, whose other spans stay."""
    pieces, begin = [], 0
    for span in spans:
        inner = order(span.space, index) if span.space in symmetry.spaces else torch.arange(span.size)
        pieces.append(inner + begin)
        begin += span.size
    return torch.cat(pieces)
