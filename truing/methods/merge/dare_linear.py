"""DARE: random parts of task vectors."""

from __future__ import annotations

from typing import Any

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Stretch
from truing.methods.merge._family import each
from truing.methods.merge._vectors import Rescale, SparseMethod, dropped


@method(paper="arXiv:2311.03099", dial="density", neutral={"lambda_": 0.0})
class DareLinear(SparseMethod):
    """Drops differences at random and adds up what is left, scaled so that its mean stays.

    Each number is kept with probability ``density``. The paper multiplies what is kept by ``1 / density``
    (``rescale: expectation``); mergekit restores the sum of sizes (``l1``).
    """

    rescale: Rescale = "expectation"

    def thin(self, at: Stretch, found: Any) -> torch.Tensor:
        return dropped(at, each(self.density, len(at.given)))
