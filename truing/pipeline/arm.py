"""One arm of a comparison: made, saved, asked, measured.

What it gives is decided by the recipe, the arm, its folder and the arms that it needs, not by where and when it runs.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from truing.core.artefact import save_policy
from truing.core.errors import RunError
from truing.core.evidence import Evidence
from truing.core.files import write_text
from truing.core.measures import Measure, Measures
from truing.core.policy import Editable, Policy
from truing.core.recipe import Point, Recipe, Step
from truing.core.run import Log, Quiet, Run, Terminal
from truing.data.promptset import load_neutral
from truing.engine.fit import Training
from truing.engine.processes import Processes
from truing.methods._saved import load
from truing.pipeline.asking import BASE, Asking, tokens_per_reply
from truing.pipeline.card import write_card
from truing.pipeline.inputs import Inputs
from truing.probes.catalogue import SILENT, measure
from truing.probes.cost import Spent
from truing.probes.material import Material
from truing.probes.memory import Peak
from truing.probes.pool import Pool


@dataclass(frozen=True)
class Made:
    """What an arm leaves behind besides its files.

    Attributes:
        pool: its draws, for the arms that are compared with it; None in a process that does not measure.
        seconds: to make it, wall clock.
        training: its log of metrics, relative to the run folder.
    """

    name: str
    pool: Pool | None
    seconds: float
    training: str | None


@dataclass(frozen=True)
class Workshop:
    """Where arms are made.

    Attributes:
        base: the model as it was named; what shared steps make of it and of the evidence is ``start``.
        out: the run folder, which everything that works on a run can read and write.
        processes: those that train together; the main one measures while the others wait.
    """

    recipe: Recipe
    inputs: Inputs
    base: Policy
    out: Path
    cache: Path
    resume: bool
    log: Log
    processes: Processes

    @property
    def asking(self) -> Asking:
        """How its arms are asked."""
        return Asking(self.recipe, self.inputs, self.cache, self.log)

    def begin(self) -> tuple[Policy, Evidence]:
        """The outcome of the shared steps: what every arm starts from."""
        if self.recipe.shared:
            self.log.say("shared steps")
        policy, evidence, _ = self.fold(
            self.recipe.shared, self.base, self.inputs.evidence, self.run("shared", self.log)
        )
        return policy, evidence

    def run(self, name: str, log: Log) -> Run:
        """What the methods of an arm are told."""
        return Run(self.recipe.seed, self.out / "work" / name, self.cache, self.resume, log)

    def file(self, point: Point) -> Path:
        """Where an arm's measures wait for the others'."""
        return self.out / "work" / "measures" / f"{point.name}.jsonl"

    def needs(self, point: Point) -> list[str]:
        """The arms that must be done before this one: the base, its donors, and opponents that a probe names."""
        if point is BASE:
            return []
        donors = [source.removeprefix("arms.") for source in point.donors.values() if source.startswith("arms.")]
        earlier = ["base"]
        for other in self.recipe.points[: self.recipe.points.index(point)]:
            earlier.append(other.name)
        rivals = [name.partition(".")[2] for name in self.recipe.probes]
        return [name for name in earlier if name in ("base", *donors, *rivals)]

    def arm(self, point: Point, start: tuple[Policy, Evidence], pools: Mapping[str, Pool]) -> Made:
        """Make an arm, or take it up from its artefact; ask it; measure it.

        Args:
            start: what the shared steps gave.
            pools: the draws of the arms in :meth:`needs`.
        """
        if point is BASE:
            policy, spent, training = self.base, Spent(seconds=0.0, memory_bytes=None, trained_parameters=0), None
        else:
            policy, spent = self.made(point, start)
            training = self.training(point) if self.training(point).exists() else None
        pool = self.measured(point, policy, spent, pools) if self.processes.main else None
        relative = str(training.relative_to(self.out)) if training else None
        return Made(point.name, pool, spent.seconds or 0.0, relative)

    def training(self, point: Point) -> Path:
        """The log of an arm's training metrics."""
        return self.out / "arms" / f"{point.name}.training.jsonl"

    def made(self, point: Point, start: tuple[Policy, Evidence]) -> tuple[Policy, Spent]:
        """The arm's policy, saved, and what it cost; both from disk where they are there."""
        folder = self.out / "arms" / point.name
        spent_file = self.out / "work" / "spent" / f"{point.name}.json"
        if self.processes.once(folder.exists):
            policy = load(str(folder), log=self.log)
            spent = Spent(**json.loads(spent_file.read_text(encoding="utf-8"))) if spent_file.exists() else Spent()
        else:
            training, main = self.training(point), self.processes.main
            if main and not self.resume:
                training.unlink(missing_ok=True)
            run = self.run(f"arms/{point.name}", Terminal(training) if main else Quiet())
            donors = {name: self.donor(source) for name, source in point.donors.items()}
            began = time.monotonic()
            with Peak() as peak:
                policy, _, trained = self.fold(point.steps, start[0], replace(start[1], donors=donors), run)
            seconds = time.monotonic() - began
            size = policy.footprint if isinstance(policy, Editable) else {}
            spent = Spent(seconds=round(seconds, 3), memory_bytes=peak.bytes, trained_parameters=trained, **size)
            if main:
                write_text(spent_file, json.dumps(vars(spent)))
                save_policy(policy, folder)
        if self.processes.main:
            # Checkpoints, which the artefact now takes the place of.
            shutil.rmtree(self.out / "work" / "arms" / point.name, ignore_errors=True)
            write_card(folder, self.recipe, point)  # also where a run stopped between the artefact and its card
        self.processes.wait()  # what follows may read the artefact
        return policy, spent

    def donor(self, source: str) -> Policy:
        """Another arm's result, or a model by name."""
        name = source.removeprefix("arms.")
        return load(str(self.out / "arms" / name) if source.startswith("arms.") else source, log=self.log)

    def fold(self, steps: Sequence[Step], policy: Policy, evidence: Evidence, run: Run) -> tuple[Policy, Evidence, int]:
        """Each step's outcome replaces its own kind; also how many parameters were trained."""
        trained = 0
        for number, step in enumerate(steps):
            method, part = step.build(), run.within(f"{number}")
            if issubclass(method.card.gives, Policy):
                outcome = method(policy, evidence, part)
            else:  # draws and verdicts are made once, and the same everywhere
                outcome = self.processes.once(partial(method, policy, evidence, part))
            if isinstance(outcome, Policy):
                if isinstance(method, Training) and isinstance(outcome, Editable):
                    trained = 0 if outcome is policy else _trained(outcome)
                policy = outcome
            elif isinstance(outcome, Evidence):
                evidence = evidence.merged(outcome)
            elif not isinstance(outcome, Measures):
                raise RunError(f"{step.method} gave {type(outcome).__name__}, which is no outcome")
        return policy, evidence, trained

    def measured(self, point: Point, policy: Policy, spent: Spent, pools: Mapping[str, Pool]) -> Pool:
        """Ask an arm, and measure it unless that was done before."""
        file, asking = self.file(point), self.asking
        pool = asking.ask(point, policy, pools.get("base"))
        if self.resume and file.exists():
            return pool
        known = {**pools, point.name: pool}
        names = self.probes(point, known)
        rows = measure(
            names,
            pool,
            base=known["base"],
            others=known,
            policy=policy,
            base_policy=self.base,
            judge=self.inputs.evidence.judge,
            material=self.material(names, replace(spent, tokens_per_reply=tokens_per_reply(pool))),
            run=Run(self.recipe.seed, None, self.cache, log=self.log),
            on_policy=asking.on_policy,
        )
        stamped = [replace(row, arm=point.name, curve=point.curve, dial=point.dial) for row in rows]
        write_text(file, "".join(row.to_json() + "\n" for row in stamped))
        self.log.say(f"  {point.name}: {_line(stamped)}")
        return pool

    def material(self, names: Sequence[str], spent: Spent) -> Material:
        """What the probes of these names read beside draws."""
        texts = load_neutral()[: self.asking.passages] if {"perplexity", "barrier"} & set(names) else ()
        given = self.inputs
        other = given.facts.settings.retrained if given.facts and "forget_quality" in names else None
        aligned = given.refusals.settings.aligned if given.refusals and "drift" in names else None
        return Material(
            neutral=[((), text) for text in texts],
            questions=given.questions,
            pairs=given.pairs,
            targets=given.targets,
            facts=given.facts,
            retrained=load(other, log=self.log) if other else None,
            refusals=given.refusals,
            aligned=load(aligned, log=self.log) if aligned else None,
            spent=spent,
        )

    def probes(self, point: Point, pools: Mapping[str, Pool]) -> list[str]:
        """The recipe's probes, less those that there is nothing to ask with."""
        names = [n for n in self.recipe.probes if n.partition(".")[2] in ("", *pools)]
        if self.inputs.evidence.judge is None:
            names = [name for name in names if name.split(".")[0] not in ("win_rate", "reward")]
        if not self.inputs.pairs and "preference" not in self.recipe.raw.get("probes", ()):
            names = [name for name in names if name != "preference"]  # where it was asked for, the log says why not
        if not self.inputs.prompts:
            names = [name for name in names if name in SILENT]
        return [name for name in names if name != "cost"] if point is BASE and not self.inputs.prompts else names


def _trained(policy: Editable) -> int:
    """How many numbers training could change."""
    if policy.trained_parameters is not None:
        return policy.trained_parameters
    return sum(tensor.numel() for tensor in policy.weights().values())


def _line(rows: Sequence[Measure]) -> str:
    shown = {row.probe: row for row in rows}
    return ", ".join(
        f"{name} {row.value:.3g}" + (f" [{row.low:.3g}, {row.high:.3g}]" if row.low is not None else "")
        for name in (
            "win_rate",
            "reward",
            "satisfied",
            "preference",
            "preference.likelihood",
            "kl",
            "length",
            "perplexity",
            "refusal",
            "multiple_choice",
        )
        if (row := shown.get(name)) is not None
    )
