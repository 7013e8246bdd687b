"""Isotropic merging in the common subspace."""

from __future__ import annotations

from typing import Any

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod


def iso_c_merge(deltas: torch.Tensor) -> torch.Tensor:
    """``mean(s) U V^T`` of the sum of the deltas, ``U diag(s) V^T``. Marczak et al. 2025, arXiv:2502.04959, eq. 6.

    Args:
        deltas: ``(K, n, m)``.

    Returns:
        ``(n, m)``, all of whose singular values are one.
    """
    left, values, right = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    made: torch.Tensor = values.mean() * left @ right
    return made


@method(paper="arXiv:2502.04959", dial="lambda_", neutral={"lambda_": 0.0})
class IsoC(MergeMethod):
    """Gives every singular direction of the summed changes the same weight; vectors are averaged.

    Attributes:
        lambda_: scales what is added to the base.
    """

    lambda_: float = 1.0

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        deltas = at.deltas
        return at.base + self.lambda_ * (iso_c_merge(deltas) if deltas.ndim == 3 else deltas.mean(0))
