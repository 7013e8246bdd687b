"""One training run, step by step: everything that a checkpoint must hold is here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.run import Run
from truing.core.trees import Extras, Tree, TreeScores
from truing.engine.checkpoint import Checkpoint
from truing.engine.engines import spread
from truing.engine.memory import device_peak, resident
from truing.engine.meter import HEED, Meter
from truing.engine.precision import autocast
from truing.engine.settings import Objective, Training, learning_rate
from truing.engine.spread import trained
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
        bench.most_kept = settings.tokens_per_batch
        parameters = trained(bench.module)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        first = [trees[i] for i in sorted(train, key=lambda i: (trees[i].size, i))[:2]]
        self.spread = spread(bench, torch.optim.AdamW(groups, lr=0.0, fused=True), settings, first)
        self.processes = self.spread.processes
        self._refuse()
        self.checkpoint = Checkpoint(run.work / "checkpoint", origin, self.processes) if run.work is not None else None
        self.step = self.tokens = self.resident = 0
        self.rate = 0.0
        self.meter = Meter(self.processes.add)
        self.rows: list[dict[str, float]] = []  # what verdicts read of the rows so far
        self.told: set[str] = set()

    def _refuse(self) -> None:
        """Refuse an objective that needs more than a process has."""
        if self.objective.companion is not None and not self.spread.whole:
            fact = "keeps something that goes along with the weights, of which each process holds a part"
            raise bad(type(self.settings).__name__, fact, "Train it without FSDP.")
        if self.objective.extras.compares and not self.spread.whole:
            fact = "compares whole distributions with the base's, and shards have no base beside them"
            raise bad(type(self.settings).__name__, fact, "Train it without FSDP.")
        if self.objective.perturb is not None and not self.spread.whole:
            fact = "moves prompts by gradients of its own, of which each process would hold a part"
            raise bad(type(self.settings).__name__, fact, "Train it without FSDP.")
        if self.objective.regularise is not None and not self.spread.whole:
            fact = "holds weights near where they began, of which each process holds a part"
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
        self.spread.begin()
        sums = []
        for numbers, counts, scores in self._scored(members):
            losses, metrics = self.objective.loss(scores, numbers)
            self._take_in(self.meter, losses, metrics, numbers, counts=counts)
            sums.append(losses.detach().sum())
            # Shards show the gradient of no single pair, and no hidden state: nothing is measured of them.
            if self.objective.inspect is not None and self.settings.logging_steps and self.spread.whole:
                with autocast(self.settings.precision):
                    found = self.objective.inspect(self.bench, scores, numbers)
                self.meter.add(found, counts=counts)
            self.resident = max(self.resident, resident())  # here all that the backward pass needs is held
            self.spread.backward(losses.sum() * float(counts) / weight)
        self._regularise()
        self.rate = learning_rate(self.settings, self.step, self.total)
        norm = self.spread.step(self.rate)
        self.meter.watch(self.step + 1, torch.stack(sums).sum() / weight, norm)
        clipped = norm > (self.settings.max_grad_norm or math.inf)
        self.meter.add({"grad_norm": norm[None], "clipped": clipped[None]})
        self.step += 1
        if self.objective.companion is not None:
            self.objective.companion.follow(self.bench.module, self.step)
        self.tokens += sum(self.trees[i].size for i in members)

    def _regularise(self) -> None:
        """Add the gradient of what the objective says of the weights alone: once, the main process's."""
        if self.objective.regularise is None:
            return
        terms = self.objective.regularise(self.bench.module)
        self.meter.add({name: term[None] for name, term in terms.items()}, counts=self.processes.main)
        self.spread.backward(torch.stack(list(terms.values())).sum() * float(self.processes.main))

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

        An objective that asks for it is shown all of them at once before the first: by passes of their own without
        gradient, or where one pass holds them all, by that.
        """
        passes = self.spread.passes(self.trees, members, self.settings.tokens_per_batch)
        survey, beside = self.objective.survey, self.objective.beside
        at_once = len(passes) == 1 and beside is None and self.processes.count == 1
        asked = self.objective.extras
        if survey is not None and not at_once:
            survey(self._surveyed(beside(members) if beside else [self.trees[i] for i in members]), members)
            asked = replace(asked, extrapolation=0.0)  # which only the survey reads
        for numbers, counts in passes:
            scores = self._score([self.trees[i] for i in numbers], asked)
            if survey is not None and at_once:
                seen = scores.tokens.detach(), scores.owner, scores.counts
                survey(TreeScores(*seen, extrapolated=scores.extrapolated), numbers)
            yield numbers, counts, scores

    def _surveyed(self, trees: Sequence[Tree]) -> TreeScores:
        """Scores of all these trees, without gradient, by all processes together; the same in each of them."""
        passes = self.spread.passes(trees, range(len(trees)), self.settings.tokens_per_batch)
        asked = Extras(extrapolation=self.objective.extras.extrapolation)
        order: list[int] = []
        pieces = []
        with torch.no_grad():
            for places, counts in passes:  # a pass that counts nothing is made too: others wait for its part of a shard
                scores = self._score([trees[k] for k in places], asked)
                order += places if counts else []
                told = [told for told in (scores.tokens, scores.extrapolated) if told is not None]
                pieces.append(torch.stack(told, 1) if counts else torch.stack(told, 1)[:0])
        mine = torch.cat(pieces)
        device = mine.device
        lengths = [sum(map(len, tree.replies)) for tree in trees]
        found: dict[int, torch.Tensor] = {}
        for places, flat in self.processes.gathered((order, mine.cpu() if self.processes.count > 1 else mine)):
            found |= zip(places, flat.to(device).split([lengths[k] for k in places]), strict=True)
        sizes = torch.tensor([len(reply) for tree in trees for reply in tree.replies], device=device)
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
        tokens, *extrapolated = torch.cat([found[k] for k in range(len(trees))]).unbind(1)
        return TreeScores(tokens, owner, sizes, extrapolated=extrapolated[0] if extrapolated else None)

    def _score(self, trees: Sequence[Tree], asked: Extras) -> TreeScores:
        perturb, self.bench.extras = self.objective.perturb, asked
        with autocast(self.settings.precision):
            shift = perturb(self.bench, trees) if perturb is not None else None
            return self.spread.score(trees, shift)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _log(self) -> None:
        """A row of metrics, and what is new in the verdict on all rows: the one time that the device is waited for."""
        found = self._told(self.meter)
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
        self.run.log.metrics({"step": self.step, **{f"eval_{name}": mean for name, mean in self._told(meter).items()}})

    def _told(self, meter: Meter) -> dict[str, float]:
        """The means since the last reading, and what follows from them."""
        found = meter.read()
        return {**found, **(self.objective.derive(found) if self.objective.derive is not None else {})}

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values that decide everything from here on; gathered, whatever they are spread over."""
        tensors = self.spread.state()
        if self.objective.companion is not None:
            tensors |= {f"companion.{name}": value for name, value in self.objective.companion.state().items()}
        plain = {"step": self.step, "tokens": self.tokens, "rows": self.rows, "told": sorted(self.told)}
        return tensors, {**plain, "meter": self.meter.state()}

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.spread.restore(tensors)
        if self.objective.companion is not None:
            found = {k.removeprefix("companion."): v for k, v in tensors.items() if k.startswith("companion.")}
            self.objective.companion.restore(found)
        self.step, self.tokens, self.rows = plain["step"], plain["tokens"], list(plain["rows"])
        self.told = set(plain["told"])
        self.meter.restore(plain["meter"], mine=self.processes.main)
