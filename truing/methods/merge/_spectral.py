"""Merging matrices by their singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from truing.core.lazy import torch
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod


@dataclass(frozen=True, kw_only=True)
class SpectralMerge(MergeMethod):
    """A member writes :meth:`combine` of matrices; changes of vectors are averaged.

    Attributes:
        lambda_: scales what is added to the base.
    """

    lambda_: float = 1.0

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        deltas = at.deltas
        return at.base + self.lambda_ * (self.combine(deltas) if deltas.ndim == 3 else deltas.mean(0))
