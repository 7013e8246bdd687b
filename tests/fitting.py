"""Training as the tests of the loop ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tiny import random_trees

from truing.core.run import Run
from truing.core.trees import Tree, TreeScores
from truing.engine.fit import Objective, Training, fit
from truing.models.local import Local

TREES = [tree for tree in random_trees(4, 30, width=1) if tree.replies[0]][:16]
LENGTHS = [float(len(tree.replies[0])) for tree in TREES]


def likelihood(scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    return -scores.sums, {"logps/chosen": scores.sums.detach()}


def train(
    base: Local,
    trees: Sequence[Tree] = TREES,
    weights: Sequence[float] = LENGTHS,
    run: Run | None = None,
    loss: Any = likelihood,
    **settings: Any,
) -> Local:
    defaults: dict[str, Any] = {"learning_rate": 2e-3, "max_steps": 5, "logging_steps": 1, "warmup_ratio": 0.0}
    made = fit(base, trees, Objective(weights, loss), Training(**{**defaults, **settings}), run or Run())
    assert isinstance(made, Local)
    return made


def flat(policy: Local) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in policy.model.parameters()])


def close(left: Local, right: Local, base: Local) -> None:
    """Both moved, and to the same place."""
    moved = (flat(left) - flat(base)).norm()
    assert moved > 0.05
    assert (flat(left) - flat(right)).norm() < 1e-3 * moved
