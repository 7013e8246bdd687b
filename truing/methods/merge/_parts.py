"""Parts of a model that are blended by fractions of their own: which tensor is in which, and the blend itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from truing.core.errors import bad
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.policy import Editable
from truing.methods.merge._family import fitting
from truing.models.architecture import Architecture, Slot, describe

Rule = Literal["mean", "pretrained", "aligned"]
"""What a tensor outside of the parts takes: the mean of their fractions, the base's own, or the donors' mean."""
NormRule = Literal["part", "mean", "pretrained", "aligned"]


@dataclass(frozen=True)
class Rules:
    """How a model is divided.

    Attributes:
        parts: runs of blocks, the first ones not longer than the last; 0 is a part for every block.
        embeddings: token and position embeddings, and a tied head, which is the same tensor.
        head: a head of its own.
        norms: those in blocks; the last norm, which is in none, takes the mean where the others take their part's.
    """

    parts: int
    embeddings: Rule
    head: Rule
    norms: NormRule

    def of(self, slot: Slot, part: int | None) -> int | Rule:
        """The part that a tensor is in, or the rule that it follows."""
        role = slot.roles[0]
        if role in ("embedding", "position_embedding"):
            return self.embeddings
        if role == "head":
            return self.head
        if "norm" in role and self.norms != "part":
            return self.norms
        return "mean" if part is None else part


@dataclass(frozen=True)
class Blend:
    """A base, what its donors add to it, and where each tensor belongs.

    Attributes:
        base: the model before its alignment.
        ends: name -> the base's tensor and the mean of the donors', both in float32 or better.
        deltas: name -> the second less the first; kept, so that a blend is one pass over the weights.
        members: name -> the part that a tensor is in, or the rule that it follows.
        layers: the part of each block.
        matrices: how many matrices each block has.
    """

    base: Editable
    ends: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    deltas: Mapping[str, torch.Tensor]
    members: Mapping[str, int | Rule]
    layers: tuple[int, ...]
    matrices: tuple[int, ...]

    @property
    def parts(self) -> int:
        """How many there are, at least one."""
        return max(self.layers, default=0) + 1

    def fraction(self, name: str, fractions: Sequence[float]) -> float:
        """The pretrained fraction of a tensor, from those of the ``K`` parts; each is in [0, 1]."""
        member = self.members[name]
        if isinstance(member, int):
            return fractions[member]
        return {"mean": centre(fractions), "pretrained": 1.0, "aligned": 0.0}[member]

    def tensor(self, name: str, fraction: float | torch.Tensor) -> torch.Tensor:
        """``base + (1 - fraction) (donors - base)`` in float32 or better; 1 and 0 are the models' own, to the bit."""
        if not isinstance(fraction, torch.Tensor) and fraction in (0.0, 1.0):
            return self.ends[name][0 if fraction else 1]
        return self.ends[name][0] + (1 - fraction) * self.deltas[name]

    def weights(self, fractions: Sequence[float]) -> dict[str, torch.Tensor]:
        """Every tensor of the base, blended, and rounded once to the base's type."""
        made = dict(self.base.weights())
        with torch.no_grad():
            for name in self.ends:
                made[name] = self.tensor(name, self.fraction(name, fractions)).to(made[name].dtype)
        return made

    def paint(self, module: torch.nn.Module, fractions: Sequence[float]) -> None:
        """Write a blend into a private copy of the base, in place."""
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for name in self.ends:
                own[name].copy_(self.tensor(name, self.fraction(name, fractions)))


def blend_of(base: Editable, evidence: Evidence, rules: Rules, place: str) -> Blend:
    """What is to be blended.

    A policy without blocks (a table) is one part. Tensors that are no floating-point numbers are left the base's.

    Raises:
        InputError: no donors, one without weights or of other shapes, an architecture that nobody described, or more
            parts than blocks.
    """
    donors = list(fitting(place, base, evidence)[1].values())
    ends, deltas = {}, {}
    for name, tensor in base.weights().items():
        if tensor.is_floating_point():
            wide = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
            theirs = [donor[name].detach().to(wide) for donor in donors]
            deltas[name] = torch.stack([each - wide for each in theirs]).mean(0)
            ends[name] = (wide, theirs[0] if len(theirs) == 1 else wide + deltas[name])
    told = _described(base, place)
    if told is None:
        return Blend(base, ends, deltas, dict.fromkeys(ends, 0), (), ())
    layers = divided(told.sizes.blocks, rules.parts, place)
    members: dict[str, int | Rule] = dict.fromkeys(ends, "mean")
    counts = [0] * len(layers)
    for slot in told.slots:
        if slot.name in ends:
            members[slot.name] = rules.of(slot, None if slot.block is None else layers[slot.block])
            if slot.block is not None:
                counts[slot.block] += slot.matrix
    if not all(counts):
        fact = f"block {counts.index(0)} of {told.model_type} has no matrix under its described name"
        raise bad(place, fact, "merge/linear takes any architecture.")
    return Blend(base, ends, deltas, members, layers, tuple(counts))


def divided(blocks: int, parts: int, place: str) -> tuple[int, ...]:
    """The part of each block: runs as even as can be.

    Example:
        >>> divided(5, 2, "here")
        (0, 0, 1, 1, 1)

    Raises:
        InputError: more parts than blocks.
    """
    count = parts or blocks
    if count > blocks:
        raise bad(place, f"parts = {parts}, and the model has {blocks} blocks", f"Give {blocks} at most.")
    edges = [k * blocks // count for k in range(1, count + 1)]
    return tuple(next(k for k, edge in enumerate(edges) if i < edge) for i in range(blocks))


def centre(values: Sequence[float]) -> float:
    """The mean; of equal values exactly that value."""
    return values[0] + math.fsum(value - values[0] for value in values) / len(values)


def _described(base: Editable, place: str) -> Architecture | None:
    """The description of a policy's model; None where it has none at all."""
    config = getattr(getattr(base, "model", None), "config", None)
    if config is None:
        return None
    told = describe(config.get_text_config())
    told.require("merging by block")
    return told
