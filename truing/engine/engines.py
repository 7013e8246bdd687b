"""Which engine a training run is made by: what accelerate was launched with, read once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.trees import Tree
from truing.engine.copies import Copies
from truing.engine.fsdp import Shards
from truing.engine.processes import asked, here
from truing.engine.settings import Schedule
from truing.engine.spread import Spread
from truing.engine.zero import Zero


def spread(bench: Workbench, optimiser: torch.optim.Optimizer, settings: Schedule, first: Sequence[Tree]) -> Spread:
    """The engine of a bench and its optimiser.

    Args:
        first: a few examples, the same in every process, on which the layout is proved before weights are sharded.

    Raises:
        InputError: the launcher asks for an engine that this is not written for.
    """
    alone = here().count == 1
    # DeepSpeed's bf16 keeps the model in bfloat16; a method's own bf16 is autocast, which the loop sees to itself.
    bf16 = settings.bf16 and not asked("DEEPSPEED")
    accelerator = _accelerator("bf16" if bf16 else "no", alone=alone)
    if not alone:
        with torch.no_grad():
            bench.score(first)
    most = settings.max_grad_norm or math.inf
    kind = str(accelerator.distributed_type.value)
    if kind == "FSDP":
        return Shards(bench, optimiser, most, accelerator)
    if kind == "DEEPSPEED":
        return Zero(bench, optimiser, most, accelerator, first)
    if kind in ("MEGATRON_LM", "XLA"):
        raise bad("accelerate", f"asks for {kind}, which training is not written for", "Use FSDP2: docs/scaling.md.")
    return Copies(bench, optimiser, most)


def _accelerator(precision: str, *, alone: bool) -> Any:
    """An accelerator of this precision. Its state is the process's, and two arms may differ in precision and layers."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    if not alone:
        connected = _connected()
    if AcceleratorState._shared_state and (not alone or AcceleratorState().mixed_precision != precision):
        AcceleratorState._reset_state()
        if not alone:  # the reset leaves the engine's name where an engine is chosen by the connection's
            PartialState._shared_state["distributed_type"] = connected
    return Accelerator(mixed_precision=precision)


@cache
def _connected() -> Any:
    """How accelerate's processes are connected, as it stands before the first accelerator chooses an engine."""
    from accelerate import PartialState

    return PartialState().distributed_type
