"""SLERP: along the arc between two models."""

from __future__ import annotations

from typing import ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._sphere import Products, arc, products, summed


def slerp_weights(inner: Products, *, t: float) -> tuple[float, float]:
    """The weights of base and donor at ``t`` of the arc between them; of the line where the cosine of their angle is
    beyond 0.9995. Shoemake 1985.

    Args:
        inner: the inner products of the two tensors, ``(2, 2)``.
    """
    return arc(inner[0][1], inner[0][0], inner[1][1], t=t, straight=0.9995)


@method(paper="doi:10.1145/325334.325242", dial="t", neutral={"t": 0.0})
class Slerp(MergeMethod):
    """Walks from base to donor along the arc between them, tensor by tensor.

    Attributes:
        t: 0 is the base, 1 the donor.
    """

    counts: ClassVar[tuple[int, int | None]] = (1, 1)

    t: float = 0.5

    @property
    def cut(self) -> bool:
        return True

    def survey(self, site: Site) -> tuple[float, float]:
        return slerp_weights(products(site, deltas=False), t=self.t)

    def blend(self, at: Stretch, found: tuple[float, float]) -> torch.Tensor:
        return summed(at.models, found)
