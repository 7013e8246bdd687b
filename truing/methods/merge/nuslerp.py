"""NuSLERP: an arc between two models, or between what they changed."""

from __future__ import annotations

from typing import Any, ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import Each, each
from truing.methods.merge._sphere import AroundMethod, Products, arc


def nuslerp_rows(one: torch.Tensor, other: torch.Tensor, *, t: float, columns: bool) -> torch.Tensor:
    """SLERP of every row (or column) by itself; on the line where two are parallel. Goddard 2024, mergekit.

    Args:
        one, other: ``(*S)``; rows lie along the last axis, columns along the first.
    """
    if columns and one.ndim > 1:
        return nuslerp_rows(one.transpose(0, -1), other.transpose(0, -1), t=t, columns=False).transpose(0, -1)
    lengths = [part.norm(dim=-1, keepdim=True).clamp(min=1e-7) for part in (one, other)]
    angle = ((one / lengths[0]) * (other / lengths[1])).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    curved = (((1 - t) * angle).sin() * one + (t * angle).sin() * other) / sine
    return torch.where(sine.abs() < 1e-8, (1 - t) * one + t * other, curved)


@method(paper="mergekit, Goddard et al. 2024, arXiv:2403.13257", dial="lambda_", neutral={"lambda_": 0.0})
class NuSlerp(AroundMethod):
    """Walks along the arc between two donors' differences from the base.

    Attributes:
        weight: of the two donors; their shares say where on the arc.
        nuslerp_flatten: one arc a tensor; otherwise one for each of its rows or columns.
        nuslerp_row_wise: columns along the first axis are walked one by one, where not flattened; otherwise rows along
            the last. The name is mergekit's.
    """

    counts: ClassVar[tuple[int, int | None]] = (2, 2)

    weight: Each = 1.0
    nuslerp_flatten: bool = True
    nuslerp_row_wise: bool = False

    @property
    def cut(self) -> bool:
        return self.nuslerp_flatten

    @property
    def t(self) -> float:
        """Where on the arc; the middle where the weights add up to nothing."""
        one, other = each(self.weight, 2)
        return other / (one + other) if abs(one + other) >= 1e-6 else 0.5

    def share(self, inner: Products) -> list[float]:
        return list(arc(inner[0][1], inner[0][0], inner[1][1], t=self.t, straight=1.0))

    def survey(self, site: Site) -> Any:
        return super().survey(site) if self.nuslerp_flatten else None

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        if self.nuslerp_flatten:
            return super().blend(at, found)
        one, other = at.deltas if self.origin == "base" else at.donors
        walked = nuslerp_rows(one, other, t=self.t, columns=self.nuslerp_row_wise)
        return at.base + self.lambda_ * walked if self.origin == "base" else walked
