"""What one of several processes does in the tests of processes: ``together.py FOLDER [fsdp]``, under a launcher."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from fitting import TREES, likelihood, train
from safetensors.torch import save_file
from tiny import Notes, make_local

from truing.core.errors import InputError, RunError, bad
from truing.core.policy import Editable
from truing.core.run import Run
from truing.engine.cache import reference_logprobs
from truing.engine.processes import Processes, here
from truing.engine.spread import Spread
from truing.models.local import Local

STEPS = {"save_steps": 2, "max_steps": 5, "eval_fraction": 0.2}
"""The run that is stopped and taken up by another number of processes."""


def shard_on_the_processor() -> None:
    """Have accelerate take the processor for an accelerator: it reads a launch's FSDP settings nowhere else."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    here()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def messages(processes: Processes) -> dict[str, object]:
    """What passes between processes, and errors that all of them meet."""

    def refused() -> int:
        raise bad("here", "is a fault", "Mend it.")

    told: dict[str, object] = {
        "once": processes.once(lambda: processes.index),
        "gathered": processes.gathered(processes.index),
        "totals": processes.totals({"b": 1.5, "a": float(processes.index)}),
    }
    try:
        processes.once(refused)
    except InputError as error:
        told["refused"] = str(error.faults[0].mend)
    return told


def main(folder: Path) -> None:
    """Train in the ways that the tests compare, and leave what came of it."""
    processes = here()
    notes, base, kinds = Notes(), make_local(), set[str]()
    close = Spread.close

    def watched(spread: Spread, start: Editable) -> Editable:
        kinds.update(type(parameter).__name__ for parameter in spread.parameters)
        return close(spread, start)

    Spread.close = watched  # type: ignore[method-assign] # to see what was trained: whole weights or shards of them
    kept: dict[str, Local] = {"tied": train(make_local("qwen2"), per_device_train_batch_size=4)}
    kept["plain"] = train(base, run=Run(log=notes), per_device_train_batch_size=4, tokens_per_batch=40)
    kept["few"] = train(base, per_device_train_batch_size=1)  # fewer examples a step than processes
    kept["resumed"] = train(base, run=Run(work=folder / "by_one", resume=True), **STEPS)
    try:
        train(base, run=Run(work=folder / "by_two", log=Notes(stop_at=4)), **STEPS)
    except KeyboardInterrupt:
        processes.wait()
    told = messages(processes)
    try:  # a loss that only the process with the longest example sees
        worst = max(range(len(TREES)), key=lambda i: TREES[i].size)
        train(base, loss=lambda s, n: (likelihood(s, n)[0] + (torch.nan if worst in n else 0.0), {}))
    except RunError as error:
        told["not finite"] = str(error)
    told["reference"] = [t.tolist() for t in reference_logprobs(base, TREES, Run(cache=folder / "cache"))]
    told["kinds"] = sorted(kinds)
    every = processes.gathered(told)
    if processes.main:
        for name, policy in kept.items():
            save_file({k: v.detach().contiguous() for k, v in policy.weights().items()}, folder / f"{name}.safetensors")
        (folder / "told.json").write_text(json.dumps({"every": every, "rows": notes.rows}), encoding="utf-8")


if __name__ == "__main__":
    if "fsdp" in sys.argv:
        shard_on_the_processor()
    main(Path(sys.argv[1]))
