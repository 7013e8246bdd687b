"""One training run, step by step: everything that a checkpoint must hold is here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from truing.core.errors import RunError
from truing.core.lazy import torch
from truing.core.policy import Tree, Workbench
from truing.core.run import Run
from truing.engine.checkpoint import Checkpoint
from truing.engine.settings import Objective, Training, learning_rate
from truing.engine.spread import Spread, placed, trained


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
    ) -> None:
        self.trees, self.objective, self.settings, self.run = trees, objective, settings, run
        self.train, self.held_out, self.total, self.per_epoch = train, held_out, total, per_epoch
        self.bench = bench
        parameters = trained(bench.module)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True)
        first = [trees[i] for i in sorted(train, key=lambda i: (trees[i].size, i))[:2]]
        self.spread = Spread(bench, self.optimiser, "bf16" if settings.bf16 else "no", first)
        self.parameters = self.spread.parameters
        main = self.spread.processes.main
        self.checkpoint = Checkpoint(run.work / "checkpoint", writes=main) if run.work is not None else None
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
            if self.checkpoint is not None and self._due(self.settings.save_steps) and self.step < self.total:
                self.checkpoint.save(self)
            self.run.log.progress("training", self.step, self.total, f"{speed:.0f} tokens/s")
        if self.checkpoint is not None:
            self.checkpoint.remove()

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
        sums: dict[str, float] = {}
        for numbers, counts in self.spread.passes(self.trees, members, self.settings.tokens_per_batch):
            with self.spread.accelerator.autocast():
                scores = self.spread.score([self.trees[i] for i in numbers])
            losses, metrics = self.objective.loss(scores, numbers)
            self.spread.backward(losses.sum() * counts / weight)
            _collect(sums, {**metrics, "loss": losses}, counts)
        norm = self.spread.clip(self.settings.max_grad_norm or math.inf)
        for name, total in self.spread.processes.totals(sums).items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        self.weight, self.seen = self.weight + weight, self.seen + len(members)
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
            for numbers, counts in self.spread.passes(self.trees, self.held_out, self.settings.tokens_per_batch):
                losses, metrics = self.objective.loss(self.spread.score([self.trees[i] for i in numbers]), numbers)
                _collect(sums, {**{f"eval_{k}": v for k, v in metrics.items()}, "eval_loss": losses}, counts)
        sums = {k: v / len(self.held_out) for k, v in self.spread.processes.totals(sums).items()}
        sums["eval_loss"] *= len(self.held_out) / weight
        self.run.log.metrics({"step": self.step, **sums})

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that decide everything from here on; gathered, whatever they are spread over."""
        tensors: dict[str, torch.Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            named = {f"optimiser.{i}.{name}": value for name, value in self.optimiser.state[parameter].items()}
            for name, value in {f"weight.{i}": parameter.detach(), **named}.items():
                tensors[name] = self.spread.kept(value)
        plain = {"step": self.step, "tokens": self.tokens, "seen": self.seen, "weight": self.weight}
        return tensors, {**plain, "sums": self.sums}

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(placed(tensors[f"weight.{i}"], parameter))
                start = f"optimiser.{i}."
                found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                self.optimiser.state[parameter] = {k: placed(v, parameter) for k, v in found.items()}
        self.step, self.tokens, self.seen = plain["step"], plain["tokens"], plain["seen"]
        self.weight, self.sums = plain["weight"], dict(plain["sums"])


def _collect(sums: dict[str, float], values: Mapping[str, torch.Tensor], counts: float) -> None:
    """Add the values of one pass, each ``(B,)``; those that only keep step with other processes count nothing."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + counts * float(value.detach().sum())
