"""The training loop: one for every family that trains.

A step is a number of examples; how they are cut into forward passes is a matter of memory and changes nothing:
losses and their normalisers are summed over the whole step, so padding, packing, order, accumulation and the number
of processes cancel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from truing.core.errors import RunError, bad
from truing.core.lazy import torch
from truing.core.policy import Editable, Workbench
from truing.core.run import Run
from truing.core.trees import Tree
from truing.engine.cache import digest, tree_digest
from truing.engine.loop import Loop
from truing.engine.memory import keeping
from truing.engine.settings import CUTS
from truing.engine.settings import Companion as Companion
from truing.engine.settings import Objective as Objective
from truing.engine.settings import Training as Training


@keeping()
def fit(base: Editable, trees: Sequence[Tree], objective: Objective, settings: Training, run: Run) -> Editable:
    """Train a copy of ``base``.

    Where ``run`` has a folder to work in, the newest checkpoint stays there for whoever called, who removes it when
    what was trained is safe.

    Args:
        trees: ``N`` examples.
        objective: loss and weight of each.

    Raises:
        InputError: nothing to train on, a base that cannot be opened as the settings say, or a checkpoint of another
            training.
        RunError: a loss, gradient or weight that is not finite, a checkpoint that cannot be read or written, or no
            memory left.
    """
    if settings.max_steps == 0:
        return base
    train, held_out = split(len(trees), settings.eval_fraction, run)
    if not train:
        raise bad("", "there is nothing to train on", "Give at least one example that the data contract keeps.")
    per_epoch, total = planned(len(trees), settings)

    def opened() -> Workbench:
        return base.open(settings, run.rng("fit", "adapter").integer())

    bench = opened()
    origin = decided(base, trees, objective, settings, run, total) if run.work is not None else {}
    with base.at_rest(run.work) if run.work is not None and _alone(objective, settings) else nullcontext():
        loop = Loop(bench, trees, objective, settings, run, train, held_out, total, per_epoch, origin)
        with loop.checkpoint.ready() if loop.checkpoint is not None else nullcontext():
            _go(loop)
        loop.spread.forget()  # before the base's weights come back
    if (name := loop.spread.not_finite()) is not None:  # the last update has no loss after it that would show it
        raise RunError(f"step {total}: {name} is not finite; nothing was saved. Lower learning_rate.")
    return loop.spread.close(opened)


def _go(loop: Loop) -> None:
    """Train; where memory is full, say what helps."""
    try:
        loop.go()
    except RuntimeError as error:
        if not _memory_is_full(error):
            raise
        fact = f"step {loop.step + 1}: memory is full at tokens_per_batch = {loop.settings.tokens_per_batch}"
        mend = "Lower it, or set gradient_checkpointing, and go on with --resume: neither changes what is learned."
        raise RunError(f"{fact}. {mend}") from error


def _alone(objective: Objective, settings: Training) -> bool:
    """Whether what is trained shares nothing with the base, and nothing compares the two meanwhile."""
    shares = settings.lora_r or settings.unfrozen_parameters
    return not shares and not objective.extras.compares and objective.regularise is None


def _memory_is_full(error: RuntimeError) -> bool:
    """Of a device, or of this machine, whose allocator has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def decided(
    base: Editable, trees: Sequence[Tree], objective: Objective, settings: Training, run: Run, total: int
) -> dict[str, Any]:
    """What decides a training, as plain values; a checkpoint of another one is not taken up. Not of a bare loss."""
    fields = {name: value for name, value in vars(settings).items() if name not in CUTS}
    return {
        "method": type(settings).__name__,
        "settings": fields,
        "examples a step": settings.step_size,
        "steps": total,
        "seed": run.seed,
        "data": digest(tree_digest(trees), list(objective.weights)),
        "base": base.fingerprint,
    }


def planned(n: int, settings: Training) -> tuple[int, int]:
    """Steps an epoch, and of the whole run, over ``n`` examples of which some are held out."""
    per_epoch = math.ceil((n - round(n * settings.eval_fraction)) / settings.step_size)
    total = settings.max_steps if settings.max_steps >= 0 else math.ceil(settings.num_train_epochs * per_epoch)
    return per_epoch, total


def split(n: int, fraction: float, run: Run) -> tuple[list[int], list[int]]:
    """Training and held-out indices: a named permutation, the same on every machine."""
    order = run.rng("fit", "split").numpy().permutation(n).tolist()
    cut = round(n * fraction)
    return sorted(order[cut:]), sorted(order[:cut])
