"""The training loop: one for every family that trains.

A step is a number of examples; how they are cut into forward passes is a matter of memory and changes nothing:
losses and their normalisers are summed over the whole step, so padding, packing, order, accumulation and the number
of processes cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from truing.core.errors import bad
from truing.core.policy import Editable, Tree
from truing.core.run import Run
from truing.engine.loop import Loop
from truing.engine.settings import Objective as Objective
from truing.engine.settings import Training as Training


def fit(base: Editable, trees: Sequence[Tree], objective: Objective, settings: Training, run: Run) -> Editable:
    """Train a copy of ``base``.

    Args:
        trees: ``N`` examples.
        objective: loss and weight of each.

    Raises:
        RunError: a loss or gradient that is not finite.
    """
    if settings.max_steps == 0:
        return base
    train, held_out = split(len(trees), settings.eval_fraction, run)
    if not train:
        raise bad("", "there is nothing to train on", "Give at least one example that the data contract keeps.")
    per_epoch = math.ceil(len(train) / settings.step_size)
    total = settings.max_steps if settings.max_steps >= 0 else math.ceil(settings.num_train_epochs * per_epoch)
    loop = Loop(base.open(), trees, objective, settings, run, train, held_out, total, per_epoch)
    loop.go()
    return loop.spread.close(base)


def split(n: int, fraction: float, run: Run) -> tuple[list[int], list[int]]:
    """Training and held-out indices: a named permutation, the same on every machine."""
    order = run.rng("fit", "split").numpy().permutation(n).tolist()
    cut = round(n * fraction)
    return sorted(order[cut:]), sorted(order[:cut])
