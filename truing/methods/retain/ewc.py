"""Elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.retain._family import Hold, Move, RetainMethod
from truing.methods.retain._fisher import Scale, diagonal, scaled, trained_names
from truing.methods.retain._kept import Keeping


def ewc_penalty(moves: Mapping[str, Move], fisher: Mapping[str, torch.Tensor], *, weight: float) -> torch.Tensor:
    """``weight / 2`` times the sum of ``F`` times squared moves, a scalar. Kirkpatrick et al. 2017, arXiv:1612.00796.

    The gradient in a weight is ``weight F`` times its move; with ``F = 1`` throughout it is ``l2_to_base``.

    Args:
        moves, fisher: by the names of the same weights, in the same shapes.
        weight: >= 0.
    """
    return (
        0.5 * weight * torch.stack([(fisher[name] * move.dense.square()).sum() for name, move in moves.items()]).sum()
    )


@method(paper="arXiv:1612.00796", dial="weight", neutral={"max_steps": 0})
class EWC(Keeping, RetainMethod):
    """Imitates demonstrations while weights that decide what is to be kept are drawn back to where they began.

    The Fisher information is the base's, by the diagonal, of replies to the prompts; it is as large as what is trained.

    Attributes:
        weight: of half the weighted squared distance, against a loss in nats a token; at 0 it is ``imitation/sft``.
        fisher_scale: its mean is 1 over the whole ``model``, so that the weight is on the scale of ``l2_to_base``; or
            in every ``tensor``; or it is what it is (``none``), in 1/weight^2.
    """

    weight: Annotated[float, Ge(0)] = 1.0
    fisher_scale: Scale = "model"

    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        kept = self.kept(self.card.name, base, evidence, run)
        if not self.weight:
            return Hold()
        fisher = diagonal(base, self, trained_names(base, self), kept, run)
        return Hold(penalty=partial(self.penalty, scaled(fisher, self.fisher_scale)))

    def penalty(self, fisher: Mapping[str, torch.Tensor], moves: Mapping[str, Move]) -> Mapping[str, torch.Tensor]:
        """The one term."""
        return {"ewc": ewc_penalty(moves, fisher, weight=self.weight)}
