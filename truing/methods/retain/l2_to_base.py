"""Imitation with weights that are drawn back to the base's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

from annotated_types import Ge

from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.method import method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.retain._family import Hold, Move, RetainMethod


def l2_penalty(moves: Iterable[Move], *, weight: float) -> torch.Tensor:
    """``weight / 2`` times the summed squares of all moves, a scalar. L2-SP, Li et al. 2018, arXiv:1802.01483.

    The gradient in a weight is ``weight`` times its move. Under adapters the move is their product, scaled.
    """
    return 0.5 * weight * torch.stack([move.squared for move in moves]).sum()


@method(paper="arXiv:1802.01483", dial="weight", neutral={"max_steps": 0})
class L2ToBase(RetainMethod):
    """Imitates demonstrations while every weight is drawn back to where it began.

    Attributes:
        weight: of half the squared distance, against a loss in nats a token; at 0 it is ``imitation/sft``.
    """

    weight: Annotated[float, Ge(0)] = 1.0

    def hold(self, base: Editable, trees: Sequence[Tree], evidence: Evidence, run: Run) -> Hold:
        return Hold(penalty=self.penalty) if self.weight else Hold()

    def penalty(self, moves: Mapping[str, Move]) -> Mapping[str, torch.Tensor]:
        """The one term."""
        return {"l2": l2_penalty(moves.values(), weight=self.weight)}
