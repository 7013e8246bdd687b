"""One training run, step by step: everything that a checkpoint must hold is here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from truing.core.errors import RunError, bad
from truing.core.lazy import torch
from truing.core.policy import Tree, Workbench
from truing.core.run import Run
from truing.engine.checkpoint import Checkpoint
from truing.engine.settings import Objective, Training, learning_rate
from truing.engine.tree import batches


def _accelerator(precision: str) -> Any:
    """An accelerator of this precision; its state is the process's, and two arms may differ in it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


class Loop:
    """The state of one training run."""

    def __init__(
        self,
        bench: Workbench,
        trees: Sequence[Tree],
        objective: Objective,
        settings: Training,
        run: Run,
        train: list[int],
        held_out: list[int],
        total: int,
        per_epoch: int,
        origin: Mapping[str, Any],
    ) -> None:
        self.trees, self.objective, self.settings, self.run = trees, objective, settings, run
        self.train, self.held_out, self.total, self.per_epoch = train, held_out, total, per_epoch
        self.accelerator = _accelerator("bf16" if settings.bf16 else "no")
        if self.accelerator.num_processes > 1:
            raise bad("", "training runs in one process so far", "Start it without a multi-process launcher.")
        self.bench = bench
        self.parameters = [p for p in bench.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True)
        self.checkpoint = Checkpoint(run.work / "checkpoint", origin) if run.work is not None else None
        self.step = self.tokens = 0
        self.sums: dict[str, float] = {}
        self.seen = self.weight = self.rate = 0.0

    def go(self) -> None:
        """From the first step, or the last checkpoint, to the end."""
        if self.checkpoint is not None and self.run.resume and (state := self.checkpoint.load(self)):
            self.run.log.say(f"  resuming at step {state} of {self.total}")
        began, tokens = time.monotonic(), self.tokens
        while self.step < self.total:
            self.one_step()
            speed = (self.tokens - tokens) / max(1e-9, time.monotonic() - began)
            if self._due(self.settings.logging_steps) or self.step == self.total:
                self._log(speed)
            if self.held_out and (self._due(self.settings.eval_steps) or self.step == self.total):
                self._evaluate()
            due = self._due(self.settings.save_steps) and self.step < self.total
            if self.checkpoint is not None and (due or self.checkpoint.asked):
                self.checkpoint.save(self)
            self.run.log.progress("training", self.step, self.total, f"{speed:.0f} tokens/s")

    def members(self, step: int) -> list[int]:
        """The examples of a step: epochs are shuffled by name, so the order needs no state."""
        epoch, within = divmod(step, self.per_epoch)
        order = self.run.rng("fit", "shuffle", epoch).numpy().permutation(len(self.train)).tolist()
        size = self.settings.step_size
        return [self.train[i] for i in order[within * size : (within + 1) * size]]

    def one_step(self) -> None:
        """Gradient of the whole step in passes of bounded size, one update."""
        members = self.members(self.step)
        weight = sum(self.objective.weights[i] for i in members)
        # Dropout stays off: its noise is ambient, and would make policy and reference differ before the first update.
        self.bench.module.eval()
        self.optimiser.zero_grad(set_to_none=True)
        for part in batches([self.trees[i] for i in members], self.settings.tokens_per_batch):
            numbers = [members[k] for k in part]
            with self.accelerator.autocast():
                scores = self.bench.score([self.trees[i] for i in numbers])
            losses, metrics = self.objective.loss(scores, numbers)
            self.accelerator.backward(losses.sum() / weight)
            self._collect(losses, metrics, numbers)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        if not (torch.isfinite(norm) and math.isfinite(self.sums["loss"])):
            raise RunError(
                f"step {self.step + 1}: loss or gradient is not finite ({self.sums['loss']}, {float(norm)}); nothing "
                "was saved from this step. Lower learning_rate, or look at its examples with 'truing check'."
            )
        rate = learning_rate(self.settings, self.step, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        self.tokens += sum(self.trees[i].size for i in members)
        self.sums["grad_norm"] = self.sums.get("grad_norm", 0.0) + float(norm) * len(members)
        self.rate = rate

    def _collect(self, losses: torch.Tensor, metrics: Mapping[str, torch.Tensor], numbers: Sequence[int]) -> None:
        for name, values in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.detach().sum())
        self.sums["loss"] = self.sums.get("loss", 0.0) + float(losses.detach().sum())
        self.weight += sum(self.objective.weights[i] for i in numbers)
        self.seen += len(numbers)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self, speed: float) -> None:
        row: dict[str, float] = {name: value / self.seen for name, value in self.sums.items()}
        row["loss"] = self.sums["loss"] / self.weight
        ahead: dict[str, float] = {"step": self.step, "epoch": round(self.step / self.per_epoch, 4)}
        tail = {"learning_rate": self.rate, "num_tokens": self.tokens, "tokens_per_second": round(speed, 1)}
        self.run.log.metrics({**ahead, **row, **tail})
        self.sums, self.seen, self.weight = {}, 0.0, 0.0

    def _evaluate(self) -> None:
        sums: dict[str, float] = {}
        weight = sum(self.objective.weights[i] for i in self.held_out)
        with torch.no_grad():
            for part in batches([self.trees[i] for i in self.held_out], self.settings.tokens_per_batch):
                numbers = [self.held_out[k] for k in part]
                losses, metrics = self.objective.loss(self.bench.score([self.trees[i] for i in numbers]), numbers)
                sums["eval_loss"] = sums.get("eval_loss", 0.0) + float(losses.sum()) / weight
                for name, values in metrics.items():
                    key = f"eval_{name}"
                    sums[key] = sums.get(key, 0.0) + float(values.sum()) / len(self.held_out)
        self.run.log.metrics({"step": self.step, **sums})

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that decide everything from here on."""
        tensors = {f"weight.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{i}.{name}"] = value
        plain = {"step": self.step, "tokens": self.tokens, "seen": self.seen, "weight": self.weight}
        return tensors, {**plain, "sums": self.sums}

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"weight.{i}"])
                start = f"optimiser.{i}."
                found = {k.removeprefix(start): v.clone() for k, v in tensors.items() if k.startswith(start)}
                self.optimiser.state[parameter] = found
        self.step, self.tokens, self.seen = plain["step"], plain["tokens"], plain["seen"]
        self.weight, self.sums = plain["weight"], dict(plain["sums"])
