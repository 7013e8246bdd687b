"""Whether matching turned the singular vectors of one network towards those of another."""

from __future__ import annotations

from collections.abc import Mapping

from truing.core.lazy import torch


def singular_alignment(anchor: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], *, gamma: float) -> float:
    """How well the singular vectors of two networks' matrices agree, pair by pair. Ito et al. 2025, arXiv:2402.04051.

    ``R = sum over matrices and pairs (i, j) of <u_i, u_j'> <v_i, v_j'>, over the number of pairs that can agree``,
    of the singular vectors whose value is at least ``gamma`` times the matrix's greatest. A permutation of rows and
    columns turns singular vectors and never changes singular values, so R tells what matching has done. A pair's
    common sign cancels. The paper's threshold is not fully specified; where the two sides keep unequal numbers, the
    mean of the two is the denominator here.

    Args:
        anchor, other: matrices by name, in the order to be judged; convolutions are flattened behind their first axis.
            Only names that both have, with two axes or more, count.
        gamma: 0 takes all vectors, 0.3 the large ones; in [0, 1].

    Returns:
        R, at most 1: 1 for a network and a reordered copy that is put back.
    """
    met, total = 0.0, 0.0
    for name in (n for n in anchor if n in other and anchor[n].ndim > 1):
        sides = []
        for weights in (anchor, other):
            u, s, vh = torch.linalg.svd(weights[name].detach().flatten(1).double(), full_matrices=False)
            kept = s >= gamma * s[0]
            sides.append((u[:, kept], vh[kept]))
        (u, vh), (u_other, vh_other) = sides
        met += float(((u.T @ u_other) * (vh @ vh_other.T)).sum())
        total += (len(vh) + len(vh_other)) / 2
    return met / total if total else 0.0
