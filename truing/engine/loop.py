"""One training run, step by step: everything that a checkpoint must hold is here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
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
from truing.engine.spread import Spread, placed, trained
from truing.engine.verdicts import READS, findings


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
        self.bench = bench
        parameters = trained(bench.module)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, fused=True)
        first = [trees[i] for i in sorted(train, key=lambda i: (trees[i].size, i))[:2]]
        self.spread = Spread(bench, self.optimiser, "bf16" if settings.bf16 else "no", first)
        self.parameters, self.processes = self.spread.parameters, self.spread.processes
        self._refuse()
        self.checkpoint = Checkpoint(run.work / "checkpoint", origin, self.processes) if run.work is not None else None
        self.step = self.tokens = self.resident = 0
        self.rate = 0.0
        self.meter = Meter(self.processes.add)
        self.rows: list[dict[str, float]] = []  # what verdicts read of the rows so far
        self.told: set[str] = set()

    def _refuse(self) -> None:
        """Refuse an objective that needs more than a process has."""
        if self.objective.survey is not None and self.processes.count > 1:
            fact = "ranks the examples of a whole step, of which each process sees a part"
            raise bad(type(self.settings).__name__, fact, "Train it in one process.")
        if self.objective.companion is not None and self.spread.sharded:
            fact = "has a reference that moves along with the weights, of which each process holds a part"
            raise bad(type(self.settings).__name__, fact, "Train it without FSDP.")
        if self.objective.perturb is not None and self.spread.sharded:
            fact = "moves prompts by gradients of its own, of which each process would hold a part"
            raise bad(type(self.settings).__name__, fact, "Train it without FSDP.")

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
            if self.checkpoint is not None and (self.checkpoint.agreed() or due):
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
        for numbers, counts, scores in self._scored(members):
            losses, metrics = self.objective.loss(scores, numbers)
            self._take_in(self.meter, losses, metrics, numbers, counts=counts)
            sums.append(losses.detach().sum())
            # Shards show the gradient of no single pair, and no hidden state: nothing is measured of them.
            if self.objective.inspect is not None and self.settings.logging_steps and not self.spread.sharded:
                with autocast(self.settings.precision):
                    found = self.objective.inspect(self.bench, scores, numbers)
                self.meter.add(found, counts=counts)
            self.resident = max(self.resident, resident())  # here all that the backward pass needs is held
            self.spread.backward(losses.sum() * float(counts) / weight)
        norm = self.spread.clip(self.settings.max_grad_norm or math.inf)
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

    def _take_in(
        self,
        meter: Meter,
        losses: torch.Tensor,
        metrics: Mapping[str, torch.Tensor],
        numbers: Sequence[int],
        *,
        counts: bool,
    ) -> None:
        """Metrics are means over examples, the loss one over their weights."""
        meter.add(metrics, counts=counts)
        meter.add({"loss": losses}, sum(self.objective.weights[i] for i in numbers), counts=counts)

    def _scored(self, members: Sequence[int]) -> Iterator[tuple[list[int], bool, TreeScores]]:
        """This process's passes over some examples, with their scores and whether they count.

        An objective that asks for it is shown all of them at once before the first: by a pass of its own without
        gradient, or where one pass holds them all, by that.
        """
        passes = self.spread.passes(self.trees, members, self.settings.tokens_per_batch)
        survey = self.objective.survey
        if survey is not None and len(passes) > 1:
            with torch.no_grad():
                survey(
                    _joined([self._score(numbers) for numbers, _ in passes]), [i for part, _ in passes for i in part]
                )
        for numbers, counts in passes:
            scores = self._score(numbers)
            if survey is not None and len(passes) == 1:
                survey(_joined([scores]), numbers)
            yield numbers, counts, scores

    def _score(self, numbers: Sequence[int]) -> TreeScores:
        trees, perturb = [self.trees[i] for i in numbers], self.objective.perturb
        with autocast(self.settings.precision):
            shift = perturb(self.bench, trees) if perturb is not None else None
            return self.spread.score(trees, shift)

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
        meter = Meter(self.processes.add)
        with torch.no_grad():
            for numbers, counts, scores in self._scored(self.held_out):
                losses, metrics = self.objective.loss(scores, numbers)
                self._take_in(meter, losses, metrics, numbers, counts=counts)
        self.run.log.metrics({"step": self.step, **{f"eval_{name}": mean for name, mean in meter.read().items()}})

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that decide everything from here on; gathered, whatever they are spread over."""
        tensors: dict[str, torch.Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            named = {f"optimiser.{i}.{name}": value for name, value in self.optimiser.state[parameter].items()}
            for name, value in {f"weight.{i}": parameter.detach(), **named}.items():
                tensors[name] = self.spread.kept(value)
        if self.objective.companion is not None:
            tensors |= {f"companion.{name}": value for name, value in self.objective.companion.state().items()}
        plain = {"step": self.step, "tokens": self.tokens, "rows": self.rows, "told": sorted(self.told)}
        return tensors, {**plain, "meter": self.meter.state()}

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(placed(tensors[f"weight.{i}"], parameter))
                start = f"optimiser.{i}."
                found = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
                self.optimiser.state[parameter] = {k: placed(v.clone(), parameter) for k, v in found.items()}
        if self.objective.companion is not None:
            found = {k.removeprefix("companion."): v for k, v in tensors.items() if k.startswith("companion.")}
            self.objective.companion.restore(found)
        self.step, self.tokens, self.rows = plain["step"], plain["tokens"], list(plain["rows"])
        self.told = set(plain["told"])
        self.meter.restore(plain["meter"], mine=self.processes.main)


def _joined(parts: Sequence[TreeScores]) -> TreeScores:
    """The scores of several passes as those of one, without gradient."""
    counts = torch.cat([part.counts for part in parts])
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return TreeScores(torch.cat([part.tokens.detach() for part in parts]), owner, counts)
