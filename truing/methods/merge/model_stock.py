"""Model stock: how far to go from the base to the donors' mean, by the angle between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._sphere import products


def stock_ratio(cosine: Any, *, count: int) -> Any:
    """``t = N cos / (1 + (N - 1) cos)``, the share of the donors' mean. Jang et al. 2024, arXiv:2403.19522, eq. 4.

    Args:
        cosine: of the angle between two donors' differences from the base, the mean over pairs: a number, or a tensor.
        count: ``N`` donors.

    Returns:
        The share; 0 where opposite donors cancel out and no share would be finite.
    """
    below = 1 + (count - 1) * cosine
    if isinstance(below, torch.Tensor):
        return torch.where(below.abs() < 1e-6, 0.0, count * cosine / below)
    return count * cosine / below if abs(below) >= 1e-6 else 0.0


def mean_cosine(inner: torch.Tensor) -> torch.Tensor:
    """The mean over pairs of ``v_i v_j / max(|v_i| |v_j|, 1e-6)``, from inner products ``(..., N, N)``; ``(...)``."""
    lengths = inner.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    cosines = (inner / (lengths[..., :, None] * lengths[..., None, :]).clamp(min=1e-6)).clamp(-1, 1)
    pairs = torch.triu_indices(inner.shape[-1], inner.shape[-1], offset=1)
    return cosines[..., pairs[0], pairs[1]].mean(-1)


@method(paper="arXiv:2403.19522", dial="lambda_", neutral={"lambda_": 0.0})
class ModelStock(MergeMethod):
    """Goes from the base towards the donors' mean, the farther the more alike what they changed.

    Attributes:
        filter_wise: an angle for each row, not for the tensor.
        lambda_: scales what is added to the base.
    """

    counts: ClassVar[tuple[int, int | None]] = (2, None)

    filter_wise: bool = False
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return not self.filter_wise

    def survey(self, site: Site) -> Sequence[float] | None:
        if self.filter_wise:
            return None
        inner = torch.tensor(products(site, deltas=True), dtype=torch.float64)
        return [float(stock_ratio(float(mean_cosine(inner)), count=site.count))]

    def blend(self, at: Stretch, found: Sequence[float] | None) -> torch.Tensor:
        ratio: Any = found[0] if found is not None else self._by_row(at)
        step: torch.Tensor = ratio * at.deltas.mean(0)
        return at.base + self.lambda_ * step

    def _by_row(self, at: Stretch) -> torch.Tensor:
        rows = at.deltas.reshape(len(at.deltas), *(at.base.shape or (1,))).movedim(0, -2)  # (*S but its last, N, n)
        ratio = stock_ratio(mean_cosine(rows @ rows.mT), count=len(at.deltas))
        made: torch.Tensor = ratio[..., None] if at.base.ndim else ratio
        return made
