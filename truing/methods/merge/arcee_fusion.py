"""Arcee fusion: the changes that matter most."""

from __future__ import annotations

from typing import Any, ClassVar

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import MergeMethod


def importance(base: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """``|donor - base|`` times, for each row, ``KL(softmax donor || softmax base)``, both probabilities raised by 1e-8.
    Arcee 2025, MergeKit v0.1.

    Args:
        base, donor: ``(*S, n)``; the last axis are the rows.
    """
    p, q = F.softmax(donor, dim=-1) + 1e-8, F.softmax(base, dim=-1) + 1e-8
    return (donor - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)


def threshold(scores: torch.Tensor) -> float:
    """Median plus 1.5 times the distance of the quartiles; each the score of rank ``floor(q (n - 1))``."""
    flat = scores.flatten()
    low, middle, high = (float(torch.kthvalue(flat, int(q * (flat.numel() - 1)) + 1).values) for q in (0.25, 0.5, 0.75))
    return middle + 1.5 * (high - low)


@method(paper="Arcee 2025, MergeKit v0.1", dial="lambda_", neutral={"lambda_": 0.0})
class ArceeFusion(MergeMethod):
    """Takes over the donor's numbers whose importance stands out of their tensor's.

    Attributes:
        lambda_: scales what is added to the base.
    """

    counts: ClassVar[tuple[int, int | None]] = (1, 1)

    lambda_: float = 1.0

    def blend(self, at: Stretch, found: Any) -> torch.Tensor:
        base, donor = (part.reshape(part.shape or (1,)) for part in (at.base, at.donors[0]))
        scores = importance(base, donor)
        change = self.lambda_ * (scores >= threshold(scores)) * (donor - base)
        return at.base + change.reshape(at.base.shape)
