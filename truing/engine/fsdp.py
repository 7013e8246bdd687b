"""Weights, gradients and moments cut over the processes by torch's FSDP2, a layer gathered when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Editable, Workbench
from truing.core.trees import Tree, TreeScores
from truing.engine.spread import Spread, moved, trained, whole


class Shards(Spread):
    """A part of every weight in each process."""

    whole = False

    def __init__(self, bench: Workbench, optimiser: torch.optim.Optimizer, most: float, accelerator: Any) -> None:
        """Prepare a bench whose layout is proved.

        Raises:
            InputError: the launcher or the model asks for what shards are not written for.
        """
        super().__init__(bench, optimiser, most)
        self.accelerator = accelerator
        self._refuse()
        self.root, prepared = accelerator.prepare(_root(bench), optimiser)
        self.optimiser = prepared.optimizer
        # Listed now: between an evaluation and the next step, a sharded module shows whole weights in their place.
        self.parameters = trained(self.root)

    def _refuse(self) -> None:
        """Refuse what each process must make its own passes for, and layers that the engine would compute again."""
        if not self.accelerator.is_fsdp2:
            raise bad("accelerate", "asks for FSDP 1", "Set fsdp_version: 2 in its configuration.")
        if any(not parameter.requires_grad for parameter in self.bench.module.parameters()):
            fact = "asks for shards, which are written for training every weight"
            raise bad("accelerate", fact, "Leave lora_r and unfrozen_parameters out, or train without FSDP.")
        if self.accelerator.state.fsdp_plugin.activation_checkpointing:
            # The engine does it in the backward pass, where the model no longer attends as a packed row must.
            mend = "Leave fsdp_activation_checkpointing out, and set gradient_checkpointing in the recipe."
            raise bad("accelerate", "asks for activation checkpointing of its own", mend)
        if "plain" in self.processes.gathered(getattr(getattr(self.bench, "scorer", None), "layout", None)):
            fact = "shards need every process to make the same passes, and this model is scored one sequence at a time"
            raise bad("accelerate", fact, "Train it without FSDP.")

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        # Without its hidden states, whose head is not whole outside a pass.
        tokens, owner, counts, *collisions = cast(Any, self.root)(trees)
        return TreeScores(tokens, owner, counts, None, *collisions)

    def backward(self, loss: torch.Tensor) -> None:
        # A gradient is averaged over processes on its way to its shard; times their number it is a sum.
        (loss * self.processes.count).backward()

    def step(self, rate: float) -> torch.Tensor:
        return moved(self.optimiser, self.parameters, rate, self.most)

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        full = whole(tensor)
        return full.cpu() if self.processes.main else full.new_empty(0)

    def close(self, opened: Callable[[], Workbench]) -> Editable:
        bench = opened()
        with torch.no_grad():
            for parameter, shard in zip(trained(bench.module), self.parameters, strict=True):
                parameter.copy_(whole(shard))
        return bench.close()


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
