"""Arcs between tensors as vectors. Whatever lies on one is a sum of the tensors, with weights that their inner products
decide: so a tensor is read once for the products, and once, in stretches, for the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from truing.core.lazy import np, torch
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod

Products = Sequence[Sequence[float]]
"""Inner products of some tensors, taken as vectors, ``(M, M)``."""


def products(site: Site, *, deltas: bool) -> list[list[float]]:
    """Inner products of base and donors, ``(1 + K, 1 + K)``, or of the donors' differences, ``(K, K)``; in float64."""
    size = site.count if deltas else site.count + 1
    total = torch.zeros(size, size, dtype=torch.float64)
    for at in site.stretches():
        rows = [row.flatten().double() for row in (at.deltas if deltas else at.models)]
        for i, row in enumerate(rows):
            for j, other in enumerate(rows[: i + 1]):
                total[i, j] += torch.dot(row, other).cpu()
    return [[float(total[max(i, j), min(i, j)]) for j in range(size)] for i in range(size)]


def summed(models: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """``sum w_i theta_i``, ``(*S)`` each. Models with weight 0 take no part; one model with weight 1 is itself."""
    used = [(w, model) for w, model in zip(weights, models, strict=True) if w]
    if not used:
        return torch.zeros_like(models[0])
    (weight, first), *others = used
    total: torch.Tensor = first.clone() if weight == 1 else first * weight
    for weight, model in others:
        total.add_(model, alpha=weight)
    return total


def arc(dot: float, one: float, other: float, *, t: float, straight: float) -> tuple[float, float]:
    """The weights of two vectors at ``t`` of the arc between their directions: ``sin((1-t) o) / sin o`` and
    ``sin(t o) / sin o``, with ``o`` the angle. Shoemake 1985.

    Args:
        dot, one, other: the inner product of the two, and of each with itself.
        straight: where ``|cos o|`` is above this, the weights are those of the line, ``1 - t`` and ``t``.
    """
    lengths = [np.sqrt(square) if square > 1e-16 else 1.0 for square in (one, other)]
    cosine = float(np.clip(dot / (lengths[0] * lengths[1]), -1, 1))
    angle = float(np.arccos(cosine))
    if abs(cosine) > straight or np.sin(angle) < 1e-8:
        return 1 - t, t
    return float(np.sin((1 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))


@dataclass(frozen=True, kw_only=True)
class AroundMethod(MergeMethod):
    """A sum of the donors, or of their differences from the base, with weights that their inner products decide.

    Attributes:
        origin: ``base`` takes the donors' differences from the base and adds the outcome to it; ``zero`` takes the
            donors themselves, and the base has no part in it.
        lambda_: scales what is added to the base.
    """

    origin: Literal["base", "zero"] = "base"
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    def share(self, inner: Products) -> list[float]:
        """The weight of each donor, or difference, from their inner products, ``(K, K)``."""
        raise NotImplementedError

    def survey(self, site: Site) -> list[float]:
        if self.origin == "base":
            return self.share(products(site, deltas=True))
        return self.share([row[1:] for row in products(site, deltas=False)[1:]])

    def blend(self, at: Stretch, found: list[float]) -> torch.Tensor:
        if self.origin == "zero":
            return summed(at.donors, found)
        return torch.add(at.base, summed(tuple(at.deltas), found), alpha=self.lambda_)
