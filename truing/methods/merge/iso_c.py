"""Isotropic merging in the common subspace."""

from __future__ import annotations

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._spectral import SpectralMerge


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
class IsoC(SpectralMerge):
    """Gives every singular direction of the summed changes the same weight; vectors are averaged."""

    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        return iso_c_merge(deltas)
