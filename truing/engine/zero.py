"""DeepSpeed's ZeRO 1 and 2: every process holds the weights, and a part of the moments and of the gradient's sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Editable, Workbench
from truing.core.trees import Tree
from truing.engine.spread import Spread, at_rate

OURS: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_allreduce_op": "sum",  # losses are divided by the weight of the whole step already
    "managed_gradient_accumulation": False,  # a step ends when the loop says so, after any number of passes
}
"""What the recipe decides, or the loop: whatever the launcher's configuration says of it is replaced."""
REPLACED = {*OURS, "train_batch_size", "gradient_clipping", "steps_per_print", "zero_allow_untested_optimizer"}
FREE = {"zero_optimization", "wall_clock_breakdown", "memory_breakdown", "dump_state", "comms_logger"}
FREE_OF_ZERO = {
    "stage", "reduce_scatter", "reduce_bucket_size", "allgather_bucket_size", "allgather_partitions", "overlap_comm",
    "contiguous_gradients", "round_robin_gradients", "use_multi_rank_bucket_allreduce",
}  # fmt: skip
"""How the work is cut, and what is told of it: nothing that is learned depends on these."""


class Zero(Spread):
    """DeepSpeed's engine around the trained parameters alone.

    The model is scored as copies are. What the engine is given to run is the loss, on its way to the backward pass: in
    there its hooks add the gradients up over the processes.
    """

    def __init__(
        self, bench: Workbench, optimiser: torch.optim.Optimizer, most: float, accelerator: Any, first: Sequence[Tree]
    ) -> None:
        """Prepare a bench.

        Args:
            first: a few examples, the same in every process.

        Raises:
            InputError: the launcher or the model asks for what this is not written for.
        """
        super().__init__(bench, optimiser, most)
        config = accelerator.deepspeed_plugin.deepspeed_config
        refuse(config)
        _refuse_old()
        self._only_alike(first)
        config |= OURS | {"train_batch_size": self.processes.count}
        if config["zero_optimization"]["stage"] == 1:  # adds up once a step, when there is nothing to overlap with
            config["zero_optimization"]["overlap_comm"] = False
        config["gradient_clipping"] = most if math.isfinite(most) else 0.0
        self.engine, _ = accelerator.prepare(_root(bench, self.parameters), optimiser)
        self._link()

    def _only_alike(self, first: Sequence[Tree]) -> None:
        """Refuse a model of which some examples use a part: gradients are added up in the order that they come in."""
        used: set[int] = set()

        def let_go(parameter: torch.Tensor) -> None:
            used.add(id(parameter))
            parameter.grad = None

        hooks = [parameter.register_post_accumulate_grad_hook(let_go) for parameter in self.parameters]
        self.bench.score(first).tokens.sum().backward()
        for hook in hooks:
            hook.remove()
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if parameter.dtype != torch.float32:
                fact = f"trains in float32 under DeepSpeed, and {name} is {str(parameter.dtype).removeprefix('torch.')}"
                raise bad("accelerate", fact, "Train it without DeepSpeed.")
            if id(parameter) not in used:
                fact = f"needs every weight in every pass under DeepSpeed, and some examples have no use for {name}"
                raise bad("accelerate", fact, "Train it without DeepSpeed.")

    def begin(self) -> None:
        """Nothing: the engine forgets a step's gradient when it has made the step."""

    def backward(self, loss: torch.Tensor) -> None:
        self.engine.backward(self.engine(loss))

    def step(self, rate: float) -> torch.Tensor:
        at_rate(self.optimiser, rate)
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm(), device=self.parameters[0].device)

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.cpu() if self.processes.main else tensor.new_empty(0)

    def moments(self, parameter: torch.nn.Parameter) -> Iterator[tuple[str, torch.Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        for name, value in self.optimiser.state[self._flat()[0]].items():
            yield name, safe_get_full_optimizer_state(parameter, name) if value.ndim else value.clone()

    def put(self, parameter: torch.nn.Parameter, weight: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameter.copy_(weight)
        safe_set_full_fp32_param(parameter, parameter)
        for name, value in moments.items():
            known = [self.optimiser.state[flat][name] for flat in self._flat()]
            if known[0].ndim:
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)
            else:  # one number for a whole part, as every weight moves in every step
                for number in known:
                    number.copy_(value)

    def _link(self) -> None:
        """Give every flat part the moments that AdamW begins with, and every parameter its place in them.

        The engine does so after the first group's first step, when the other groups have none yet.
        """
        for flat in self._flat():
            zeros = {name: torch.zeros_like(flat, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[flat] = {"step": torch.zeros((), device=flat.device), **zeros}
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat(self) -> list[torch.Tensor]:
        """This process's part of each group of parameters, end to end: what the optimiser moves."""
        return [flat for group in self.optimiser.param_groups for flat in group["params"]]

    def forget(self) -> None:
        self.engine.destroy()

    def close(self, opened: Callable[[], Workbench]) -> Editable:
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()  # of the engine's buffers nothing is kept
        return self.bench.close()


def refuse(config: Mapping[str, Any]) -> None:
    """Refuse a configuration of DeepSpeed that would change what is learned, or is not tested.

    Raises:
        InputError: it asks for such a thing.
    """
    zero = config["zero_optimization"]
    if (stage := zero.get("stage")) not in (1, 2):
        mend = "Set zero_stage to 1 or 2; fsdp_version: 2 shards the weights too (docs/accelerate/shards.yaml)."
        mend = mend if stage == 3 else "Set zero_stage to 1 or 2; docs/accelerate/copies.yaml needs no DeepSpeed."
        raise bad("accelerate", f"asks for stage {stage} of DeepSpeed's ZeRO", mend)
    asked = [name for name, value in config.items() if name not in FREE | REPLACED and _on(value)]
    asked += [
        f"zero_optimization.{name}"
        for name, value in zero.items()
        if name not in FREE_OF_ZERO and not name.startswith("stage3_") and _on(value)
    ]
    if asked:
        fact = f"asks DeepSpeed for {', '.join(asked)}, which training is not tested with"
        raise bad(
            "accelerate", fact, "Leave it out: a method's own fields say how it trains, and bf16 in what numbers."
        )


def _refuse_old() -> None:
    """Refuse a release that would pass over a part of :data:`OURS`, and train on something else."""
    from deepspeed import DeepSpeedEngine

    if not hasattr(DeepSpeedEngine, "managed_gradient_accumulation"):
        raise bad("accelerate", "asks for DeepSpeed, of an old release", "Run: pip install 'truing[deepspeed]'")


def _on(value: object) -> bool:
    """Whether a part of a configuration asks for anything."""
    if isinstance(value, Mapping):
        return bool(value.get("enabled", value.get("device", "cpu") not in ("none", None)))
    return value not in (None, False, "none")


def _root(bench: Workbench, parameters: Sequence[torch.nn.Parameter]) -> torch.nn.Module:
    """What is trained, as a module that gives a loss back as it is."""

    class Trained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = torch.nn.ParameterList(parameters)
            self.config = getattr(bench.module, "config", None)  # its width decides buckets that are left to accelerate

        def forward(self, loss: torch.Tensor) -> torch.Tensor:
            return loss

    return Trained()
