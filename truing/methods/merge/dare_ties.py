"""DARE with an election of signs: random parts of task vectors."""

from __future__ import annotations

from typing import Any, ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import each
from truing.methods.merge._vectors import Rescale, SparseMethod, dropped


@method(paper="arXiv:2311.03099", dial="density", neutral={"lambda_": 0.0})
class DareTies(SparseMethod):
    """Drops differences at random, elects a sign for each number, and adds up what has it.

    Each number is kept with probability ``density``. The paper multiplies what is kept by ``1 / density``
    (``rescale: expectation``); mergekit restores the sum of sizes (``l1``).
    """

    agree: ClassVar[bool] = True

    rescale: Rescale = "expectation"

    def thin(self, at: Stretch, found: Any) -> torch.Tensor:
        return dropped(at, each(self.density, len(at.given)))
