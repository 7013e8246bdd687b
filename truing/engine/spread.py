"""One training step spread over processes: accelerate's engines behind the two calls that the loop makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Editable, Workbench
from truing.core.trees import Tree, TreeScores
from truing.engine.processes import Processes, here, shares
from truing.engine.tree import batches

Pass = tuple[list[int], bool]
"""Examples of one forward pass, and whether they count: some only keep step with the other processes."""


class Spread:
    """The engine of a training run: this process alone, copies that add their gradients up, or shards (FSDP2).

    A step's gradient is the same sum however it is spread. Losses are divided by the weight of the whole step, and
    gradients are added over processes, where the engines themselves would average.

    Attributes:
        sharded: whether each process holds a part of every weight.
        parameters: what is trained, in the order of the model; shards where it is sharded.
        names: of the parameters.
    """

    def __init__(self, bench: Workbench, optimiser: Any, precision: str, first: Sequence[Tree]) -> None:
        """Prepare a bench and its optimiser.

        Args:
            first: a few examples, the same in every process, on which the layout is proved before weights are sharded.

        Raises:
            InputError: the launcher asks for an engine that this is not written for.
        """
        self.processes: Processes = here()
        self.accelerator = _accelerator(precision, alone=self.processes.count == 1)
        self.sharded = _sharded(self.accelerator)
        self.bench, self.optimiser, self.root = bench, optimiser, None
        self.names = [name for name, parameter in bench.module.named_parameters() if parameter.requires_grad]
        if self.processes.count > 1:
            with torch.no_grad():
                bench.score(first)
        if self.sharded:
            self._only_whole()
            self._only_packed()
            self.root, prepared = self.accelerator.prepare(_root(bench), optimiser)
            self.optimiser = prepared.optimizer
        # Listed now: between an evaluation and the next step, a sharded module shows whole weights in their place.
        self.parameters = trained(bench.module if self.root is None else self.root)

    def _only_whole(self) -> None:
        """Refuse to shard a model that is trained in part, or whose layers the engine would compute again."""
        if any(not parameter.requires_grad for parameter in self.bench.module.parameters()):
            fact = "asks for shards, which are written for training every weight"
            raise bad("accelerate", fact, "Leave lora_r and unfrozen_parameters out, or train without FSDP.")
        if self.accelerator.state.fsdp_plugin.activation_checkpointing:
            # The engine does it in the backward pass, where the model no longer attends as a packed row must.
            mend = "Leave fsdp_activation_checkpointing out, and set gradient_checkpointing in the recipe."
            raise bad("accelerate", "asks for activation checkpointing of its own", mend)

    def _only_packed(self) -> None:
        """Refuse, in every process alike, a model that makes as many passes as there are replies."""
        if "plain" in self.processes.gathered(getattr(getattr(self.bench, "scorer", None), "layout", None)):
            fact = "shards need every process to make the same passes, and this model is scored one sequence at a time"
            raise bad("accelerate", fact, "Train it without FSDP.")

    def passes(self, trees: Sequence[Tree], members: Sequence[int], budget: int) -> list[Pass]:
        """This process's forward passes over some examples: as many as every other process makes.

        Shards are gathered in every pass, so no process may make one more than another; who has fewer repeats the
        smallest example and counts it zero times.
        """
        cuts = []
        for part in shares([trees[i].size for i in members], self.processes.count):
            mine = [members[i] for i in part]
            cuts.append([[mine[k] for k in cut] for cut in batches([trees[i] for i in mine], budget)])
        own: list[Pass] = [(cut, True) for cut in cuts[self.processes.index]]
        smallest = min(members, key=lambda i: (trees[i].size, i))
        return own + [([smallest], False)] * (max(map(len, cuts)) - len(own))

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        """Log-probabilities of some trees, with gradient where gradients are enabled; shards take no shift."""
        return self.bench.score(trees, shift) if self.root is None else self._gathered(trees)

    def _gathered(self, trees: Sequence[Tree]) -> TreeScores:
        """Scores of a sharded model, without its hidden states, whose head is not whole outside a pass."""
        tokens, owner, counts, *collisions = cast(Any, self.root)(trees)
        return TreeScores(tokens, owner, counts, None, *collisions)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a part of the step's loss."""
        # A sharded gradient is averaged over processes on its way to its shard; times their number it is a sum.
        self.accelerator.backward(loss * self.processes.count if self.sharded else loss)

    def clip(self, most: float) -> torch.Tensor:
        """Complete the step's gradient, scale it down to the 2-norm ``most``, and give the norm that it had."""
        parameters = self.parameters
        if not self.sharded and self.processes.count > 1:
            touched = self.processes.gathered([p.grad is not None for p in parameters])
            for parameter, *by in zip(parameters, *touched, strict=True):
                if parameter.grad is None and any(by):  # an expert that only another process's examples were sent to
                    parameter.grad = torch.zeros_like(parameter)
            self.processes.add([p.grad for p in parameters if p.grad is not None])
        return whole(torch.nn.utils.clip_grad_norm_(parameters, most))

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor as a checkpoint holds it: whole, where the main process can write it. Every process must ask."""
        if not self.sharded:
            return tensor
        full = whole(tensor)
        return full.cpu() if self.processes.main else full.new_empty(0)

    def not_finite(self) -> str | None:
        """The name of a parameter that holds a number that is not finite, in whichever process; None if all are."""
        held = zip(self.names, self.parameters, strict=True)
        found = next((name for name, parameter in held if not torch.isfinite(own(parameter)).all()), None)
        return next((name for name in self.processes.gathered(found) if name is not None), None)

    def close(self, opened: Callable[[], Workbench]) -> Editable:
        """What the bench has become, whole in every process; ``opened`` gives one like it, as it began."""
        if not self.sharded:
            return self.bench.close()
        bench = opened()
        with torch.no_grad():
            for parameter, shard in zip(trained(bench.module), self.parameters, strict=True):
                parameter.copy_(whole(shard))
        return bench.close()


def trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters that training changes, in the module's order."""
    return [p for p in module.parameters() if p.requires_grad]


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


def _sharded(accelerator: Any) -> bool:
    """Whether each process holds a part of every weight."""
    kind = str(accelerator.distributed_type.value)
    if kind == "FSDP" and not accelerator.is_fsdp2:
        raise bad("accelerate", "asks for FSDP 1", "Set fsdp_version: 2 in its configuration.")
    if kind in ("DEEPSPEED", "MEGATRON_LM", "XLA"):
        raise bad("accelerate", f"asks for {kind}, which training is not written for", "Use FSDP2: docs/scaling.md.")
    return kind == "FSDP"


def _root(bench: Workbench) -> torch.nn.Module:
    """A module whose forward pass is the bench's scoring, so that an engine's hooks run around all of it.

    It shows the engine the model's layers to shard one by one, and hides its head: the vocabulary is projected in
    chunks, so the head runs several times a pass and must stay whole until the pass is over.
    """

    class Scoring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: Any = bench.module
            self._no_split_modules = sorted(getattr(bench.module, "_no_split_modules", None) or ())

        def tie_weights(self) -> None:
            self.inner.tie_weights()

        def forward(self, trees: Sequence[Tree]) -> tuple[torch.Tensor, ...]:
            scores = bench.score(trees)  # as a tuple: hooks look for tensors, and know no classes of ours
            more = () if scores.collisions is None else (scores.collisions,)
            return scores.tokens, scores.owner, scores.counts, *more

    return Scoring()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered where each process holds a part of it. Every process must ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies in this process."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(value: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """A whole tensor as another lies: on its device, and of a shape like its own, cut as it is cut."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(where.device)
    if value.shape != where.shape or not isinstance(where, DTensor):
        return value
    return distribute_tensor(value, where.device_mesh, where.placements)
