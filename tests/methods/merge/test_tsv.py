"""merge/tsv."""

from __future__ import annotations

import torch
from bags import close, merged

from truing.methods.merge.tsv import nearest_orthogonal

ZERO = torch.zeros(6, 8, dtype=torch.float64)


def test_one_donor_is_taken_whole() -> None:
    delta = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(merged("merge/tsv", ZERO, delta), delta, 1e-10)


def test_donors_with_directions_of_their_own_are_added() -> None:
    """Rank-3 changes of 6 whose directions are orthogonal already: nothing interferes."""
    source = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(6, 6, generator=source, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(8, 8, generator=source, dtype=torch.float64)).Q
    one, other = (
        left[:, k : k + 3] @ torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()) @ right[k : k + 3] for k in (0, 3)
    )
    close(merged("merge/tsv", ZERO, one, other), one + other, 1e-10)


def test_the_singular_values_are_those_that_were_kept() -> None:
    """However the donors' directions overlap: of two changes of 6 by 8, three values each."""
    deltas = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = torch.cat([torch.linalg.svdvals(delta)[:3] for delta in deltas]).sort(descending=True).values
    close(torch.linalg.svdvals(merged("merge/tsv", ZERO, *deltas)), kept, 1e-10)


def test_the_nearest_orthogonal_matrix() -> None:
    """No other orthonormal frame is nearer, among random ones and small turns."""
    source = torch.Generator().manual_seed(1)
    matrix = torch.randn(7, 3, generator=source, dtype=torch.float64)
    found = nearest_orthogonal(matrix)
    close(found.T @ found, torch.eye(3).double(), 1e-10)
    for size in (0.01, 0.3, 10.0):
        other = torch.linalg.qr(found + size * torch.randn(7, 3, generator=source, dtype=torch.float64)).Q
        other = other * torch.sign((other * found).sum(0))
        assert (matrix - found).norm() <= (matrix - other).norm()


def test_vectors_are_averaged() -> None:
    close(
        merged("merge/tsv", torch.zeros(2).double(), torch.ones(2).double(), torch.tensor([3.0, 5.0]).double()), [2, 3]
    )
