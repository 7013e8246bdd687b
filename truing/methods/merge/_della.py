"""DELLA's masks: within a row, the larger a difference the likelier it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Lt

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import each
from truing.methods.merge._vectors import SparseMethod

Half = Annotated[float, Ge(0), Lt(0.5)]


def keep_probabilities(delta: torch.Tensor, *, density: float, epsilon: float) -> torch.Tensor:
    """From ``density - epsilon`` for a row's smallest size to ``density + epsilon`` for its largest, evenly by rank.
    Deep et al. 2024, arXiv:2406.11617, section 3.

    Args:
        delta: ``(*S, n)``; its last axis are the rows.

    Returns:
        ``(*S, n)``; ``density`` in rows of one number.
    """
    width = delta.shape[-1] if delta.ndim else 1
    if width < 2:
        return torch.full_like(delta, density)
    ranks = delta.abs().argsort(dim=-1, stable=True).argsort(dim=-1)
    return density - epsilon + ranks.to(delta.dtype) * (2 * epsilon / (width - 1))


@dataclass(frozen=True, kw_only=True)
class DellaMethod(SparseMethod):
    """Task vectors whose larger numbers are likelier kept.

    Attributes:
        epsilon: how far the probabilities of a row's smallest and largest number lie from ``density``.
    """

    epsilon: Half | tuple[Half, ...] = 0.15

    @property
    def cut(self) -> bool:
        return False  # a rank is one among its row

    def thin(self, at: Stretch, found: Any) -> torch.Tensor:
        count = len(at.given)
        shares = list(zip(each(self.density, count), each(self.epsilon, count), strict=True))
        for density, epsilon in shares:
            if density < 1 and (density - epsilon < 0 or density + epsilon > 1):
                fact = f"density {density:g} -/+ epsilon {epsilon:g} leaves the probabilities, 0 to 1"
                raise bad(self.card.name, fact, "Give a smaller epsilon.")
        if all(density >= 1 for density, _ in shares):
            return at.deltas
        kept = torch.ones_like(at.deltas)
        for donor, (density, epsilon) in enumerate(shares):
            if density < 1:
                stream = torch.Generator(at.base.device).manual_seed(at.site.rng.child(donor).integer())
                chances = keep_probabilities(at.deltas[donor], density=density, epsilon=epsilon)
                kept[donor] = torch.bernoulli(chances, generator=stream)
        return kept.mul_(at.deltas)
