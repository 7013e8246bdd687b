"""Tensors by name that are read, or made, only when they are asked for, and a stretch at a time.

A merge of models that are larger than memory is a mapping like any other; whoever needs its numbers takes them piece
by piece (:meth:`Tensors.pieces`), and nothing is kept.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from truing.core.lazy import torch

if TYPE_CHECKING:
    from typing import TypeAlias

    Named: TypeAlias = Mapping[str, torch.Tensor]
else:
    Named = Mapping

STRETCH = 1 << 18
"""Numbers of a stretch: some of them, in float32, fit into a processor's cache. Random masks are named by it."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Spec:
    """What is known of a tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.count * self.dtype.itemsize


class Tensors(Named):
    """A mapping whose tensors are not in memory before they are asked for."""

    @abstractmethod
    def spec(self, name: str) -> Spec:
        """Shape and type of a tensor, without making it."""

    @abstractmethod
    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        """The tensor in order, as (position of the first number, ``(n,)`` numbers)."""

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in memory of its own."""
        spec = self.spec(name)
        whole = torch.empty(spec.count, dtype=spec.dtype)
        for start, piece in self.pieces(name):
            whole[start : start + piece.numel()] = piece
        return whole.reshape(spec.shape)

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Numbers ``start`` to ``stop`` of the flattened tensor, ``(stop - start,)``. Not to be written to."""
        return self.read(name).flatten()[start:stop]

    def cheap(self, name: str) -> bool:
        """Whether a stretch costs no more than its own numbers."""
        return False

    def cost(self, name: str) -> int:
        """Bytes of memory that making the tensor takes at most, about."""
        return self.spec(name).size

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name; a plain mapping would make it to find out."""
        try:
            self.spec(str(name))
        except KeyError:
            return False
        return True


class Held(Tensors):
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def spec(self, name: str) -> Spec:
        tensor = self.tensors[name]
        return Spec(tuple(tensor.shape), tensor.dtype)

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name].detach().clone()

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.tensors[name].detach().flatten()[start:stop]

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        yield 0, self.tensors[name].detach().flatten()

    def cheap(self, name: str) -> bool:
        return self.tensors[name].is_contiguous()


def as_tensors(weights: Mapping[str, torch.Tensor]) -> Tensors:
    """Any mapping of tensors with the interface of a lazy one."""
    return weights if isinstance(weights, Tensors) else Held(weights)


def block(name: str) -> int | None:
    """The number of the block that a tensor belongs to: the first number in its name; None outside of blocks.

    Example:
        >>> block("model.layers.7.mlp.experts.3.up_proj.weight"), block("model.norm.weight")
        (7, None)
    """
    found = _NUMBER.search(name)
    return int(found.group()) if found else None


def renumbered(name: str, number: int) -> str:
    """The name of the same tensor in another block.

    Example:
        >>> renumbered("model.layers.7.mlp.experts.3.up_proj.weight", 9)
        'model.layers.9.mlp.experts.3.up_proj.weight'
    """
    return _NUMBER.sub(str(number), name, count=1)


def depths(names: Iterable[str]) -> dict[str, float]:
    """How deep in the model each tensor lies: 0 for the first block, 1 for the last, and 0 outside of blocks.

    Example:
        >>> depths(["embed.weight", "h.0.w", "h.1.w", "h.2.w"])
        {'embed.weight': 0.0, 'h.0.w': 0.0, 'h.1.w': 0.5, 'h.2.w': 1.0}
    """
    numbers = {name: block(name) for name in names}
    last = max((number for number in numbers.values() if number is not None), default=0)
    return {name: (number / last if last else 1.0) if number is not None else 0.0 for name, number in numbers.items()}


def natural(name: str) -> tuple[Any, ...]:
    """A key that sorts block 2 before block 10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split("."))
