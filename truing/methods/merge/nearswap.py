"""Nearswap: the other model's numbers where they are near."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod


def nearswap_merge(base: torch.Tensor, donor: torch.Tensor, *, t: float) -> torch.Tensor:
    """``w donor + (1 - w) base`` with ``w = min(1, t / max(|base - donor|, 1e-6))``. Alchemonaut 2024, with
    QuartetAnemoi-70B-t0.0001.
    """
    weight = (t / (base - donor).abs().clamp(min=1e-6)).clamp(0, 1)
    return weight * donor + (1 - weight) * base


@method(paper="Alchemonaut 2024, QuartetAnemoi-70B-t0.0001", dial="t", neutral={"t": 0.0})
class Nearswap(MergeMethod):
    """Takes over the donor's number where it is nearer than ``t``, and moves by ``t`` towards it elsewhere.

    Attributes:
        t: the most that a number moves, in the unit of the weights.
    """

    counts: ClassVar[tuple[int, int | None]] = (1, 1)

    t: Annotated[float, Ge(0)] = 1e-4

    @property
    def cut(self) -> bool:
        return True

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        return nearswap_merge(at.base, at.donors[0], t=self.t)
