"""Passthrough: tensors as they are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod


@method(paper="mergekit, Goddard et al. 2024, arXiv:2403.13257", dial="take", neutral={"take": 0.0})
class Passthrough(MergeMethod):
    """Takes the last blocks of the donor, and all else of the base, without mixing any number.

    Stacks of blocks of several models, of another height than theirs, are written as slices (docs/merging.md).

    Attributes:
        take: share of the depth that is the donor's; at 1 all of it, what lies outside of the blocks included.
        scale: what the donor's tensors are multiplied by.
    """

    counts: ClassVar[tuple[int, int | None]] = (1, 1)

    take: Annotated[float, Ge(0), Le(1)] = 1.0
    scale: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        taken = self.take > 0 and at.site.depth >= 1 - self.take
        return at.donors[0] * self.scale if taken else at.base
