"""A change of a matrix in two parts: what lies where the base's alignment is sensitive, and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from truing.core.lazy import torch
from truing.models.moved import Move, inner

Projector = Literal["soft", "hard"]


@dataclass(frozen=True)
class Guard:
    """What is known of one matrix before training.

    Attributes:
        vectors: ``(out, m)``, orthonormal: the leading eigenvectors of the safety factor ``S``.
        values: ``(m,)``, its eigenvalues, >= 0.
        shares: ``(m,)`` in [0, 1]: the projector is ``vectors diag(shares) vectors^T``.
        trust: ``(out,)``, the diagonal of the task's trust region ``H``.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    shares: torch.Tensor
    trust: torch.Tensor

    @property
    def projector(self) -> torch.Tensor:
        """``(out, out)``."""
        return (self.vectors * self.shares) @ self.vectors.T

    @property
    def fisher(self) -> torch.Tensor:
        """``S`` as far as it was kept, ``(out, out)``."""
        return (self.vectors * self.values) @ self.vectors.T


def guarded(factor: torch.Tensor, trust: torch.Tensor, *, rank: int, projector: Projector, softness: float) -> Guard:
    """The guard of a matrix from its safety factor.

    Args:
        factor: ``S``, ``(out, out)``, symmetric and positive semi-definite.
        trust: ``(out,)``.
        rank: eigenvectors that are kept, ``m = min(rank, out)``.
        projector: ``hard`` has shares of 1; ``soft`` is ``S (S + softness I)^-1`` on what is kept.
        softness: in the unit of ``S``, > 0.
    """
    values, vectors = torch.linalg.eigh(factor)
    values, vectors = values[-rank:].clamp_min(0), vectors[:, -rank:].clone()  # a view would keep all of them
    shares = torch.ones_like(values) if projector == "hard" else values / (values + softness)
    return Guard(vectors, values, shares, trust)


@dataclass(frozen=True)
class Split:
    """``dW = dW_A + dW_T``, each a product with the same right factor.

    Attributes:
        aligned, task: left factors of ``dW_A = P dW`` and ``dW_T = (1 - P) dW``, ``(out, r)``.
        right: ``(r, in)``.
        guard: of this matrix.
    """

    aligned: torch.Tensor
    task: torch.Tensor
    right: torch.Tensor
    guard: Guard

    @staticmethod
    def of(move: Move, guard: Guard) -> Split:
        """Split a move that is a product of factors."""
        if move.right is None:
            raise TypeError("a whole difference has no factors")
        aligned = guard.vectors @ (guard.shares[:, None] * (guard.vectors.T @ move.left))
        return Split(aligned, move.left - aligned, move.right, guard)

    @property
    def alignment(self) -> torch.Tensor:
        """``||F^1/2 dW_A||^2``, a scalar."""
        inside = self.guard.vectors.T @ self.aligned
        return inner(inside, self.guard.values[:, None] * inside, self.right)

    @property
    def drift(self) -> torch.Tensor:
        """``||H^1/2 dW_T||^2``, a scalar."""
        return inner(self.task, self.guard.trust[:, None] * self.task, self.right)

    def separation(self, epsilon: float) -> torch.Tensor:
        """The squared cosine of the two parts, in [0, 1], a scalar; ``epsilon`` keeps 0/0 away at the start."""
        across = inner(self.aligned, self.task, self.right)
        sizes = inner(self.aligned, self.aligned, self.right) * inner(self.task, self.task, self.right)
        return across.square() / (sizes + epsilon)

    def overlap(self, steepness: float, threshold: float) -> torch.Tensor:
        """Mean over entries of ``(1 + steepness sigmoid(|dW| - threshold)) |dW_A dW_T|``, a scalar >= 0.

        The one term that needs the products: ``out x in`` numbers a matrix.
        """
        aligned, task = self.aligned @ self.right, self.task @ self.right
        rate = 1 + steepness * torch.sigmoid((aligned + task).abs() - threshold)
        return (rate * (aligned * task).abs()).mean()
