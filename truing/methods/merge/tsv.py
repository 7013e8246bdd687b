"""Task singular vectors, decorrelated."""

from __future__ import annotations

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._spectral import SpectralMerge


def tsv_merge(deltas: torch.Tensor) -> torch.Tensor:
    """``U diag(s) V^T`` of all donors' leading singular vectors, made orthogonal. Gargiulo et al. 2024,
    arXiv:2412.00081, algorithm 1.

    Of each of ``K`` differences the first ``r = floor(min(n, m) / K)`` singular triples are kept (at least one), laid
    side by side, and left and right vectors each replaced by the nearest matrix with orthonormal columns.

    Args:
        deltas: ``(K, n, m)``.

    Returns:
        ``(n, m)``.
    """
    rank = max(1, min(deltas.shape[1:]) // len(deltas))
    left, values, right = torch.linalg.svd(deltas, full_matrices=False)
    sides = [torch.cat(list(left[:, :, :rank]), 1), torch.cat(list(right.mT[:, :, :rank]), 1)]
    scaled, plain = (nearest_orthogonal(side) for side in sides)
    made: torch.Tensor = scaled @ (values[:, :rank].reshape(-1, 1) * plain.T)
    return made


def nearest_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """``P Q^T`` of the decomposition ``P D Q^T``: the nearest matrix with orthonormal columns. Schonemann 1966."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    made: torch.Tensor = left @ right
    return made


@method(paper="arXiv:2412.00081", dial="lambda_", neutral={"lambda_": 0.0})
class Tsv(SpectralMerge):
    """Adds the leading singular directions of all donors' changes, made orthogonal; vectors are averaged."""

    def combine(self, deltas: torch.Tensor) -> torch.Tensor:
        return tsv_merge(deltas)
