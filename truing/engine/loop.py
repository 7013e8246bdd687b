"""One training run, step by step: everything that a checkpoint must hold is here."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Tree, TreeScores, Workbench
from truing.core.run import Run
from truing.engine.checkpoint import Checkpoint
from truing.engine.memory import device_peak, resident
from truing.engine.meter import HEED, Meter
from truing.engine.precision import autocast
from truing.engine.settings import Objective, Training, learning_rate
from truing.engine.tree import batches
from truing.engine.verdicts import READS, findings


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
        self.step = self.tokens = self.resident = 0
        self.rate = 0.0
        self.meter = Meter()
        self.rows: list[dict[str, float]] = []  # what verdicts read of the rows so far
        self.told: set[str] = set()

    def go(self) -> None:
        """From the first step, or the last checkpoint, to the end."""
        if self.checkpoint is not None and self.run.resume and (state := self.checkpoint.load(self)):
            self.run.log.say(f"  resuming at step {state} of {self.total}")
        self.began = time.monotonic(), self.tokens
        while self.step < self.total:
            self.one_step()
            if self._due(self.settings.logging_steps) or self.step == self.total:
                self._log()
            elif self._due(HEED) or self._due(self.settings.eval_steps):
                self.meter.check()
            if self.held_out and (self._due(self.settings.eval_steps) or self.step == self.total):
                self._evaluate()
            due = self._due(self.settings.save_steps) and self.step < self.total
            if self.checkpoint is not None and (due or self.checkpoint.asked):
                self.checkpoint.save(self)
            self.run.log.progress("training", self.step, self.total, f"{self.speed:.0f} tokens/s")
        for finding in findings(self.rows):
            self.run.log.say(f"  training: {finding}")

    @property
    def speed(self) -> float:
        """Tokens a second since the start, or since the run was taken up."""
        began, tokens = self.began
        return (self.tokens - tokens) / max(1e-9, time.monotonic() - began)

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
        sums = []
        parts = self._parts(members)
        self._survey(parts)
        for numbers in parts:
            with autocast(self.settings.precision):
                scores = self.bench.score([self.trees[i] for i in numbers])
            losses, metrics = self.objective.loss(scores, numbers)
            self.meter.add(metrics)
            self.meter.add({"loss": losses}, sum(self.objective.weights[i] for i in numbers))
            sums.append(losses.detach().sum())
            if self.objective.inspect is not None and self.settings.logging_steps:
                with autocast(self.settings.precision):
                    self.meter.add(self.objective.inspect(self.bench, scores, numbers))
            self.resident = max(self.resident, resident())  # here all that the backward pass needs is held
            self.accelerator.backward(losses.sum() / weight)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        self.meter.watch(self.step + 1, torch.stack(sums).sum() / weight, norm)
        clipped = norm > (self.settings.max_grad_norm or math.inf)
        self.meter.add({"grad_norm": norm[None], "clipped": clipped[None]})
        rate = learning_rate(self.settings, self.step, self.total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step += 1
        if self.objective.companion is not None:
            self.objective.companion.follow(self.bench.module, self.step)
        self.tokens += sum(self.trees[i].size for i in members)
        self.rate = rate

    def _parts(self, members: Sequence[int]) -> list[list[int]]:
        """Examples by the forward pass that they go in, the same order whatever the cut."""
        cut = batches([self.trees[i] for i in members], self.settings.tokens_per_batch)
        return [[members[k] for k in part] for part in cut]

    def _survey(self, parts: Sequence[Sequence[int]]) -> None:
        """Show an objective that asks for it a whole step at once, before any of its losses."""
        if self.objective.survey is None:
            return
        with torch.no_grad(), autocast(self.settings.precision):
            scores = [self.bench.score([self.trees[i] for i in part]) for part in parts]
        counts = torch.cat([part.counts for part in scores])
        owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        tokens = torch.cat([part.tokens for part in scores])
        self.objective.survey(TreeScores(tokens, owner, counts), [i for part in parts for i in part])

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self) -> None:
        """A row of metrics, and what is new in the verdict on all rows: the one time that the device is waited for."""
        found = self.meter.read()
        ahead: dict[str, float] = {"step": self.step, "epoch": round(self.step / self.per_epoch, 4)}
        tail = {"learning_rate": self.rate, "num_tokens": self.tokens, "tokens_per_second": round(self.speed, 1)}
        row = {**ahead, **found, **tail, "peak_memory": device_peak() or self.resident}
        self.run.log.metrics(row)
        self.rows.append({name: row[name] for name in READS if name in row})
        new = [finding for finding in findings(self.rows) if finding.kind not in self.told]
        for finding in new if self.step < self.total else ():
            self.run.log.say(f"  step {self.step}: {finding}")
        self.told |= {finding.kind for finding in new}

    def _evaluate(self) -> None:
        meter, parts = Meter(), self._parts(self.held_out)
        self._survey(parts)
        with torch.no_grad(), autocast(self.settings.precision):
            for numbers in parts:
                losses, metrics = self.objective.loss(self.bench.score([self.trees[i] for i in numbers]), numbers)
                meter.add(metrics)
                meter.add({"loss": losses}, sum(self.objective.weights[i] for i in numbers))
        self.run.log.metrics({"step": self.step, **{f"eval_{name}": mean for name, mean in meter.read().items()}})

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that decide everything from here on."""
        tensors = {f"weight.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{i}.{name}"] = value
        if self.objective.companion is not None:
            tensors |= {f"companion.{name}": value for name, value in self.objective.companion.state().items()}
        plain = {"step": self.step, "tokens": self.tokens, "rows": self.rows, "told": sorted(self.told)}
        return tensors, {**plain, "meter": self.meter.state()}

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"weight.{i}"])
                start = f"optimiser.{i}."
                found = {k.removeprefix(start): v.clone() for k, v in tensors.items() if k.startswith(start)}
                self.optimiser.state[parameter] = found
        if self.objective.companion is not None:
            found = {k.removeprefix("companion."): v for k, v in tensors.items() if k.startswith("companion.")}
            self.objective.companion.restore(found)
        self.step, self.tokens, self.rows = plain["step"], plain["tokens"], list(plain["rows"])
        self.told = set(plain["told"])
        self.meter.restore(plain["meter"])
