"""What one of several processes does in the tests of processes: ``together.py FOLDER ENGINE``, under a launcher."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import LENGTHS, TREES, likelihood, train
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import Notes, make_exact, make_local

from truing.core.errors import InputError, RunError, bad
from truing.core.evidence import Demo, Evidence, Pair, Ranked, Rating
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run
from truing.core.trees import TreeScores
from truing.engine import rest
from truing.engine.cache import reference_logprobs
from truing.engine.fit import Objective, Training, fit
from truing.engine.loop import Loop
from truing.engine.processes import Processes, here
from truing.engine.spread import own
from truing.models.local import Local

STEPS = {"save_steps": 2, "max_steps": 5, "eval_fraction": 0.2}
"""The run that is stopped and taken up by another number of processes."""

PARTS: dict[str, dict[str, Any]] = {
    "lora": {"lora_r": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 4},
    "dora": {"lora_r": 4, "use_dora": True, "learning_rate": 1e-2, "per_device_train_batch_size": 4},
    "frozen": {"unfrozen_parameters": ("layers.1",), "learning_rate": 1e-2, "per_device_train_batch_size": 4},
}
"""Trainings of a part of the model."""

METHODS: dict[str, dict[str, Any]] = {
    "preference/wpo": {},  # chances that two draws agree
    "preference/dpo": {"entanglement": "exact", "logging_steps": 1},  # gradients of its own, pair by pair
    "preference/tr_dpo": {"ref_model_sync_steps": 1},  # a reference that moves
    "preference/selfie": {"window": 2, "trusting_share": 0.0, "alpha": 0.5},  # margins of steps before
    "unpaired/kto": {},  # mismatched examples of the whole step
    "unpaired/bco": {},  # a running mean
    "unlearn/npo": {"retain": "kl"},  # whole distributions of the base
    "listwise/lipo": {},
    "retain/l2_to_base": {},  # a penalty on the weights' moves
    "preference/c_adv_ipo": {},  # prompts moved by gradients of its own
}
"""Methods that need more of the loop than a loss of examples."""
SPREAD = ("preference/wpo", "preference/dpo", "unpaired/kto", "listwise/lipo")
"""Those of them that shards are written for."""


def shard_on_the_processor() -> None:
    """Have accelerate take the processor for an accelerator: it reads a launch's FSDP settings nowhere else."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    here()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def talk_through_gloo() -> None:
    """Have DeepSpeed compile no collective of its own, which it does where it finds a processor and a compiler."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


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


def interrupted(processes: Processes, base: Local, folder: Path) -> list[int]:
    """A signal that reaches the second process alone stops both, at a checkpoint: the steps that it is of."""
    sent: list[int] = []

    def loss(scores: TreeScores, numbers: Sequence[int]) -> Any:
        if processes.index == 1 and not sent:
            sent.append(1)
            signal.raise_signal(signal.SIGINT)
        return likelihood(scores, numbers)

    try:
        train(base, run=Run(work=folder / "interrupted"), loss=loss, **STEPS)
    except KeyboardInterrupt:
        processes.wait()
        with safe_open(folder / "interrupted" / "checkpoint" / "state.safetensors", framework="pt") as file:
            return [json.loads(file.metadata()["truing"])["step"]]
    return []


class Still:
    """A companion that does nothing."""

    def follow(self, module: torch.nn.Module, step: int) -> None: ...
    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None: ...


class Centred:
    """Each loss is the squared distance from a mean over the step, of the trees one before its own."""

    mean = torch.zeros(())

    def survey(self, scores: TreeScores, numbers: Sequence[int]) -> None:
        self.mean = (scores.sums * torch.arange(1, len(numbers) + 1)).mean()  # who swaps two trees gets another

    def loss(self, scores: TreeScores, numbers: Sequence[int]) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        return 1e-2 * (scores.sums - self.mean).square(), {}


def surveyed(base: Local) -> Local:
    """Trained on losses that no part of a step could know."""
    centred = Centred()
    objective = Objective(
        [1.0] * len(TREES), centred.loss, survey=centred.survey, beside=lambda m: [TREES[i - 1] for i in m]
    )
    settings = Training(learning_rate=2e-3, max_steps=5, per_device_train_batch_size=5, tokens_per_batch=40)
    made = fit(base, TREES, objective, settings, Run())
    assert isinstance(made, Local)
    return made


def by_method(name: str, base: Local) -> Local:
    """Trained by a real method, on a few texts."""
    words = ("name a tool", "say hi", "count", "why", "go on then", "what is it")
    replies = ("a saw", "hi there", "one two", "as is, I fear", "so", "no")
    evidence = Evidence(
        pairs=[Pair(user(w), replies[k], replies[k - 2]) for k, w in enumerate(words)],
        demos=[Demo(user(w), replies[k]) for k, w in enumerate(words)],
        ratings=[Rating(user(w), replies[k], float(k % 2)) for k, w in enumerate(words)],
        lists=[Ranked(user(w), replies[: 2 + k % 3], (2.0, 0.0, 1.0, 3.0)[: 2 + k % 3]) for k, w in enumerate(words)],
    )
    settings = {"learning_rate": 3e-3, "max_steps": 4, "per_device_train_batch_size": 4, "tokens_per_batch": 40}
    made = build(name, **{**settings, **METHODS[name]})(base, evidence, Run())
    assert isinstance(made, Local)
    return made


def with_a_spare_part() -> Local:
    """A model with a weight that no example uses."""
    base = make_local()
    base.model.spare = torch.nn.Parameter(torch.ones(3))
    return base


FSDP_RECOMPUTES = {"FSDP_ACTIVATION_CHECKPOINTING": "true"}
STAGE, OFFLOAD = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"
Refused = tuple[dict[str, str], dict[str, Any], dict[str, Any], Callable[[], Local]]
REFUSED: dict[str, list[Refused]] = {
    "copies": [],
    "shards": [
        ({}, {"companion": Still()}, {}, make_local),
        ({}, {}, {"lora_r": 2}, make_local),
        ({}, {}, {"unfrozen_parameters": ("norm",)}, make_local),
        (FSDP_RECOMPUTES, {}, {}, make_local),
    ],
    "zero": [
        ({STAGE: "3"}, {}, {}, make_local),
        ({STAGE: "0"}, {}, {}, make_local),
        ({OFFLOAD: "cpu"}, {}, {}, make_local),
        ({}, {}, {}, with_a_spare_part),
        ({}, {}, {}, partial(make_exact, "llama")),
    ],
}
"""What an engine does not do: of the launch, of the objective, of the settings, of the model."""


def refusals(how: str) -> list[str]:
    """What is said to each of these."""
    found = []
    for environment, parts, settings, made in REFUSED[how]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                objective = Objective(LENGTHS, likelihood, **parts)
                fit(made(), TREES, objective, Training(learning_rate=1e-3, max_steps=1, **settings), Run())
            except InputError as error:
                found.append(error.faults[0].fact)
    return found


def main(folder: Path, how: str) -> None:
    """Train in the ways that the tests compare, and leave what came of it."""
    processes = here()
    notes, base, kinds, held = Notes(), make_local(), set[str](), set[float]()
    go = Loop.go

    def watched(loop: Loop) -> None:
        go(loop)
        spread = loop.spread
        kinds.update(type(parameter).__name__ for parameter in spread.parameters)
        moments = [own(m) for known in spread.optimiser.state.values() for m in known.values() if m.ndim]
        held.add(round(sum(m.numel() for m in moments) / sum(p.numel() for p in spread.parameters), 1))

    with pytest.MonkeyPatch.context() as seen:  # what is trained, and how much of it lies here
        seen.setattr(Loop, "go", watched)
        plain = train(base, run=Run(log=notes), per_device_train_batch_size=4, tokens_per_batch=40)
    kept: dict[str, Local] = {"plain": plain}
    pytest.MonkeyPatch().setattr(rest, "LEAST", 1)  # from here on the base rests, where a run has a folder
    kept["tied"] = train(make_local("qwen2"), per_device_train_batch_size=4)
    kept["recomputed"] = train(base, per_device_train_batch_size=4, gradient_checkpointing=True)
    kept["surveyed"] = surveyed(base)
    kept["few"] = train(base, per_device_train_batch_size=1)  # fewer examples a step than processes
    if how != "shards":  # refused there
        kept |= {name: train(base, **settings) for name, settings in PARTS.items()}
    for name in SPREAD if how == "shards" else METHODS:
        kept[name.replace("/", "-")] = by_method(name, base)
    if how == "zero":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
            kept["first stage"] = train(base, per_device_train_batch_size=4, tokens_per_batch=40)
    again = Notes()
    kept["resumed"] = train(base, run=Run(work=folder / "by_one", resume=True, log=again), **STEPS)
    try:
        train(base, run=Run(work=folder / "by_two", log=Notes(stop_at=4)), **STEPS)
    except KeyboardInterrupt:
        processes.wait()
    told = messages(processes)
    told |= {"taken up": again.said, "stopped": interrupted(processes, base, folder), "not spread": refusals(how)}
    try:  # a loss that only the process with the longest example sees
        worst = max(range(len(TREES)), key=lambda i: TREES[i].size)
        train(base, loss=lambda s, n: (likelihood(s, n)[0] + (torch.nan if worst in n else 0.0), {}))
    except RunError as error:
        told["not finite"] = str(error)
    told["reference"] = [t.tolist() for t in reference_logprobs(base, TREES, Run(cache=folder / "cache"))]
    told |= {"kinds": sorted(kinds), "held": sorted(held)}
    every = processes.gathered(told)
    if processes.main:
        for name, policy in kept.items():
            save_file({k: v.detach().contiguous() for k, v in policy.weights().items()}, folder / f"{name}.safetensors")
        (folder / "told.json").write_text(json.dumps({"every": every, "rows": notes.rows}), encoding="utf-8")


if __name__ == "__main__":
    {"copies": here, "shards": shard_on_the_processor, "zero": talk_through_gloo}[sys.argv[2]]()
    main(Path(sys.argv[1]), sys.argv[2])
