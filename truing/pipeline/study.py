"""A comparison, from its recipe to its page: arms are made, asked the same prompts, measured, and let go."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truing import report
from truing.core.artefact import save_policy
from truing.core.errors import InputError, RunError
from truing.core.evidence import Evidence
from truing.core.files import sweep, write_text
from truing.core.measures import Measure, Measures
from truing.core.policy import Editable, Policy
from truing.core.recipe import Point, Recipe, Step, parse
from truing.core.run import Run, Terminal
from truing.data.promptset import load_neutral
from truing.engine.fit import Training
from truing.methods._saved import load
from truing.models.local import Local
from truing.pipeline.asking import Asking
from truing.pipeline.card import write_card
from truing.pipeline.checking import recipe_faults
from truing.pipeline.inputs import Inputs, read_inputs, token_limits
from truing.pipeline.records import Record, folder_faults
from truing.probes.catalogue import measure
from truing.probes.cost import Spent
from truing.probes.memory import Peak

BASE = Point("base", "base", ())


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``$TRUING_CACHE``, else ``~/.cache/truing``."""
    return Path(os.environ.get("TRUING_CACHE") or Path.home() / ".cache" / "truing")


def run(recipe: Recipe, out: Path, *, resume: bool = False) -> Path:
    """Run a comparison.

    Args:
        out: a new folder, or with ``resume`` one in which this recipe was begun.

    Returns:
        The report page.

    Raises:
        InputError: every fault of recipe and data, before any work starts.
        RunError: it began and could not be finished.
    """
    if faults := [*recipe_faults(recipe), *folder_faults(recipe, out, resume=resume)]:
        raise InputError(*faults)
    read_inputs(recipe)  # bad data is refused before a model loads; tokens are counted once the model is there
    log = Terminal()
    began = time.monotonic()
    log.say(f"{recipe.name}: {recipe.model}, {len(recipe.points)} arms")
    base = load(recipe.model, log=log, adapter=recipe.adapter, load_in_4bit=recipe.load_in_4bit)
    inputs = read_inputs(recipe, **(token_limits(base.template, base.context) if isinstance(base, Local) else {}))
    for name, ledger in inputs.ledgers.items():
        log.say(f"  {name}: {ledger.brief()}")
    record = Record(out)
    finished = record.open(recipe, inputs, base.fingerprint)
    sweep(out)
    if finished:
        log.say("  finished already")
    else:
        Study(recipe, inputs, base, out, record, log, resume).go()
        record.close(time.monotonic() - began, [p.name for p in (BASE, *recipe.points)])
    for part in ("shared", "arms"):  # checkpoints of a run that is done
        shutil.rmtree(out / "work" / part, ignore_errors=True)
    page, _ = report.write([out])
    return page


def evaluate(
    model: str, *, probes: Sequence[str], out: Path, data: Mapping[str, object] | None, judge: str | None, seed: int
) -> Path:
    """Measure one model as it is.

    Returns:
        The report page.
    """
    raw: dict[str, Any] = {"model": model, "seed": seed, "probes": list(probes)}
    if data:
        raw["evaluate"] = dict(data) if "prompts" in data else {"prompts": data}
    else:
        raw["evaluate"] = {"prompts": "constraints"}
    if judge is not None:
        raw["judge"] = judge
    recipe = parse(raw, name=f"evaluate {model}")
    recipe = replace(recipe, faults=tuple(fault for fault in recipe.faults if fault.place != "arms"))
    return run(recipe, out)


@dataclass
class Study:
    """One run in progress."""

    recipe: Recipe
    inputs: Inputs
    base: Policy
    out: Path
    record: Record
    log: Terminal
    resume: bool
    asking: Asking = field(init=False)

    def go(self) -> None:
        """Shared steps, then every arm in turn."""
        self.asking = Asking(self.recipe, self.inputs, self.base, cache_folder(), self.log)
        run = Run(self.recipe.seed, self.out / "work" / "shared", cache_folder(), self.resume, self.log)
        if self.recipe.shared:
            self.log.say("shared steps")
        start, evidence, _ = self.fold(self.recipe.shared, self.base, self.inputs.evidence, run)
        self.measured(BASE, self.base, Spent(seconds=0.0, memory_bytes=None, trained_parameters=0), None)
        for number, point in enumerate(self.recipe.points):
            self.log.say(f"arm {number + 1} of {len(self.recipe.points)}: {point.name}")
            self.arm(point, start, evidence)
        rows = [line for p in (BASE, *self.recipe.points) for line in self.file(p).read_text("utf-8").splitlines()]
        write_text(self.out / "measures.jsonl", "\n".join(rows) + "\n")
        lines = [json.dumps(row, ensure_ascii=False) for row in self.asking.samples((BASE, *self.recipe.points))]
        write_text(self.out / "samples.jsonl", "".join(line + "\n" for line in lines))

    def file(self, point: Point) -> Path:
        """Where an arm's measures wait for the others'."""
        return self.out / "work" / "measures" / f"{point.name}.jsonl"

    def arm(self, point: Point, start: Policy, evidence: Evidence) -> None:
        """Make one arm, or take it up from its artefact; ask it; measure it."""
        folder = self.out / "arms" / point.name
        spent_file = self.out / "work" / "spent" / f"{point.name}.json"
        training = folder.parent / f"{folder.name}.training.jsonl"
        work = self.out / "work" / "arms" / point.name
        if folder.exists():
            policy = load(str(folder), log=self.log)
            spent = Spent(**json.loads(spent_file.read_text(encoding="utf-8"))) if spent_file.exists() else Spent()
        else:
            log = Terminal(training)
            if not self.resume:
                training.unlink(missing_ok=True)
            run = Run(self.recipe.seed, work, cache_folder(), self.resume, log)
            donors = {name: self.donor(source) for name, source in point.donors.items()}
            began = time.monotonic()
            with Peak() as peak:
                policy, _, trained = self.fold(point.steps, start, replace(evidence, donors=donors), run)
            seconds = time.monotonic() - began
            spent = Spent(seconds=round(seconds, 3), memory_bytes=peak.bytes, trained_parameters=trained)
            write_text(spent_file, json.dumps(vars(spent)))
            save_policy(policy, folder)
        shutil.rmtree(work, ignore_errors=True)  # checkpoints, which the artefact now takes the place of
        write_card(folder, self.recipe, point)  # also where a run stopped between the artefact and its card
        self.measured(point, policy, spent, training if training.exists() else None)

    def donor(self, source: str) -> Policy:
        """Another arm's result, or a model by name."""
        name = source.removeprefix("arms.")
        return load(str(self.out / "arms" / name) if source.startswith("arms.") else source, log=self.log)

    def fold(self, steps: Sequence[Step], policy: Policy, evidence: Evidence, run: Run) -> tuple[Policy, Evidence, int]:
        """Each step's outcome replaces its own kind; also how many parameters were trained."""
        trained = 0
        for number, step in enumerate(steps):
            method = step.build()
            outcome = method(policy, evidence, run.within(f"{number}"))
            if isinstance(outcome, Policy):
                if isinstance(method, Training) and isinstance(outcome, Editable):
                    trained = 0 if outcome is policy else _trained(outcome)
                policy = outcome
            elif isinstance(outcome, Evidence):
                evidence = evidence.merged(outcome)
            elif not isinstance(outcome, Measures):
                raise RunError(f"{step.method} gave {type(outcome).__name__}, which is no outcome")
        return policy, evidence, trained

    def measured(self, point: Point, policy: Policy, spent: Spent, training: Path | None) -> None:
        """Ask and measure an arm, unless that was done before."""
        file, log = self.file(point), self.log
        pool = self.asking.ask(point.name, policy)
        if not (self.resume and file.exists()):
            base = self.asking.pools["base"]
            names = self.probes(point)
            texts = load_neutral()[: self.asking.passages] if "perplexity" in names else ()
            rows = measure(
                names,
                pool,
                base=base,
                others=self.asking.pools,
                policy=policy,
                base_policy=self.base,
                judge=self.inputs.evidence.judge,
                neutral=[((), text) for text in texts],
                spent=replace(spent, tokens_per_reply=self.asking.tokens_per_reply(pool)),
                run=Run(self.recipe.seed, None, cache_folder(), log=log),
                on_policy=self.asking.on_policy,
            )
            stamped = [replace(row, arm=point.name, curve=point.curve, dial=point.dial) for row in rows]
            write_text(file, "".join(row.to_json() + "\n" for row in stamped))
            log.say(f"  {point.name}: {_line(stamped)}")
        relative = str(training.relative_to(self.out)) if training else None
        artefact = f"arms/{point.name}" if point.steps else None
        self.record.arm(point, artefact=artefact, seconds=spent.seconds or 0.0, training=relative)

    def probes(self, point: Point) -> list[str]:
        """The recipe's probes, less those that there is nothing to ask with."""
        names = [n for n in self.recipe.probes if n.partition(".")[2] in ("", *self.asking.pools)]
        if self.inputs.evidence.judge is None:
            names = [name for name in names if name.split(".")[0] not in ("win_rate", "reward")]
        if not self.inputs.prompts:
            names = [name for name in names if name in ("perplexity", "cost")]
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
        for name in ("win_rate", "reward", "satisfied", "kl", "length", "perplexity")
        if (row := shown.get(name)) is not None
    )
