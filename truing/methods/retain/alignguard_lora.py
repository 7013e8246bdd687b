"""Adapters whose changes are kept out of the directions that alignment depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.retain._family import Hold, Move, RetainMethod
from truing.methods.retain._fisher import output_diagonals, output_factors
from truing.methods.retain._kept import Keeping
from truing.methods.retain._split import Guard, Projector, Split, guarded


def alignguard_terms(
    splits: Sequence[Split],
    *,
    lambda_alignment: float,
    lambda_task: float,
    lambda_collision: float,
    alpha: float,
    steepness: float,
    threshold: float,
    epsilon: float,
) -> dict[str, torch.Tensor]:
    """What AlignGuard-LoRA adds to the task's loss, by name. Das et al. 2025, arXiv:2508.02079.

    ``l_A sum ||F^1/2 dW_A||^2 + l_T sum ||H^1/2 dW_T||^2 + l_NC mean [a E_RM + (1 - a) E_geo]``, sums and mean over
    matrices. A part whose weight is 0 is not computed. At a matrix that has not moved all of it and its gradient are 0.

    Args:
        splits: of every matrix with an adapter.
        lambda_alignment, lambda_task, lambda_collision: ``l_A``, ``l_T``, ``l_NC``, >= 0.
        alpha: share of the overlap in the collision, in [0, 1].
        steepness, threshold: of the overlap's rate, ``1 + steepness sigmoid(|dW| - threshold)``.
        epsilon: > 0, in the denominator of the separation, in weight^4.
    """
    found: dict[str, torch.Tensor] = {}
    if lambda_alignment:
        found["alignment"] = lambda_alignment * torch.stack([split.alignment for split in splits]).sum()
    if lambda_task:
        found["task"] = lambda_task * torch.stack([split.drift for split in splits]).sum()
    if lambda_collision * alpha:
        overlaps = torch.stack([split.overlap(steepness, threshold) for split in splits])
        found["overlap"] = lambda_collision * alpha * overlaps.mean()
    if lambda_collision * (1 - alpha):
        apart = torch.stack([split.separation(epsilon) for split in splits])
        found["separation"] = lambda_collision * (1 - alpha) * apart.mean()
    return found


@method(paper="arXiv:2508.02079", dial="lambda_alignment", neutral={"max_steps": 0})
class AlignGuardLoRA(Keeping, RetainMethod):
    """Imitates demonstrations by adapters whose product is split at the directions in which the base is sensitive.

    The factor ``S`` of a layer is the mean outer product of gradients at its output, over replies to the prompts under
    the base, once before training, with mean 1 on its diagonal. No code of the paper could be had: what is known of it
    is the objective at second hand, and every choice beyond that is a field here.

    Attributes:
        lora_r: rank of the adapters; there is no form of this without them.
        lambda_alignment: of what moves in the sensitive directions, weighed by ``S``.
        lambda_task: of what moves elsewhere.
        lambda_collision: of overlap and separation, means over matrices.
        alpha: share of the overlap among these two; 0 spares the one product of an adapter's factors.
        beta, tau: of the overlap's rate, ``1 + beta sigmoid(|dW| - tau)``.
        epsilon: keeps the separation, a squared cosine, from 0/0.
        projector: ``soft`` is ``S (S + softness)^-1``; with ``hard``, a true projector, the separation is 0 throughout.
        rank: eigenvectors of ``S`` that are kept, of each matrix.
        softness: in mean eigenvalues of ``S``.
        trust_region: where the rest may move: alike in all directions, or less where the task's own factor has a larger
            diagonal (``fisher``, of the demonstrations).
    """

    lora_r: Annotated[int, Ge(1)] = 16
    learning_rate: float = 1e-4
    lambda_alignment: Annotated[float, Ge(0)] = 0.25
    lambda_task: Annotated[float, Ge(0)] = 0.5
    lambda_collision: Annotated[float, Ge(0)] = 0.1
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    beta: Annotated[float, Ge(0)] = 4.0
    tau: float = 0.01
    epsilon: Annotated[float, Gt(0)] = 1e-12
    projector: Projector = "soft"
    rank: Annotated[int, Ge(1)] = 64
    softness: Annotated[float, Gt(0)] = 1.0
    trust_region: Literal["identity", "fisher"] = "identity"

    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        kept = self.kept(self.card.name, base, evidence, run)
        if not (self.lambda_alignment or self.lambda_task or self.lambda_collision):
            return Hold()
        task = output_diagonals(base, self, trees, self.tokens_per_batch, run) if self.trust_region == "fisher" else {}
        guards = {}
        for name, factor in output_factors(base, self, kept, self.tokens_per_batch, run):
            trust = task[name] if task else torch.ones_like(factor[0])
            guards[name] = guarded(factor, trust, rank=self.rank, projector=self.projector, softness=self.softness)
        return Hold(penalty=partial(self.penalty, guards))

    def penalty(self, guards: Mapping[str, Guard], moves: Mapping[str, Move]) -> Mapping[str, torch.Tensor]:
        """The terms whose weights are not 0."""
        return alignguard_terms(
            [Split.of(move, guards[name]) for name, move in moves.items()],
            lambda_alignment=self.lambda_alignment, lambda_task=self.lambda_task,
            lambda_collision=self.lambda_collision, alpha=self.alpha, steepness=self.beta, threshold=self.tau,
            epsilon=self.epsilon,
        )  # fmt: skip
