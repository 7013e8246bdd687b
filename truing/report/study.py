"""One or more run folders as one comparison: arms with names that do not clash, measures that can be looked up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from truing.core.measures import Measure
from truing.report import load
from truing.report.load import Arm, RunFolder, Sample
from truing.report.pareto import Point, pareto_set

SEPARATOR = " · "


@dataclass(frozen=True)
class Study:
    """Everything that a report shows.

    Attributes:
        title: the run's name, or the names of several.
        runs: the folders as they were read.
        arms: of all runs in order, prefixed by the run's name where there are several runs.
        references: the name of the base arm of each run, one a run.
        measures: every measure under the arm's name in this study.
        samples: the same for replies.
        notes: what a reader should know of the data.
    """

    title: str
    runs: Sequence[RunFolder]
    arms: Sequence[Arm]
    references: Sequence[str]
    measures: Sequence[Measure]
    samples: Sequence[Sample]
    notes: Sequence[str]

    @cached_property
    def table(self) -> Mapping[str, Mapping[str, Measure]]:
        """Arm -> probe -> measure. What is not a number (NaN) is left out; an infinite value is a value."""
        rows: dict[str, dict[str, Measure]] = {arm.name: {} for arm in self.arms}
        for measure in self.measures:
            if not math.isnan(measure.value):
                rows[measure.arm][measure.probe] = replace(measure, low=_told(measure.low), high=_told(measure.high))
        return rows

    def find(self, arm: str, probe: str) -> Measure | None:
        """The measure of an arm, or None where it was not taken."""
        return self.table.get(arm, {}).get(probe)

    def distance(self, arm: str) -> Measure | None:
        """KL from the base: the estimate where there is one, else the bound."""
        return self.find(arm, "kl") or self.find(arm, "kl_bound")

    @cached_property
    def candidates(self) -> Sequence[Arm]:
        """Every arm that is not a reference."""
        return tuple(arm for arm in self.arms if arm.name not in self.references)

    @cached_property
    def points(self) -> Sequence[Point]:
        """The arms that the front can show: those with a win rate and a KL (or a bound of it)."""
        found = []
        for arm in self.candidates:
            win, distance = self.find(arm.name, "win_rate"), self.distance(arm.name)
            if win and distance and math.isfinite(win.value) and math.isfinite(distance.value):
                found.append(Point(arm, win, distance))
        return tuple(found)

    @cached_property
    def pareto(self) -> Sequence[str]:
        """Names of the arms that no other arm, nor the base at (0 nats, 50 %), beats in both; by rising KL."""
        at = [(0.0, 0.5), *((point.x, point.y) for point in self.points)]
        kept = [index - 1 for index in pareto_set(at) if index > 0]
        return tuple(self.points[i].arm.name for i in sorted(kept, key=lambda i: (at[i + 1], i)))


def gather(folders: Sequence[Path]) -> Study:
    """The comparison that some run folders make together.

    With one folder, names stay as they are. With several, every arm and curve is prefixed by the name of its
    run (numbered where two runs share one), so ``beta=0.1`` of one run never joins the curve of another.

    Raises:
        InputError: a folder cannot be read; see :func:`truing.report.load.read`.
    """
    runs = [load.read(Path(folder)) for folder in folders]
    prefixes = _prefixes([run.name for run in runs])
    named = list(zip(runs, prefixes, strict=True))
    moved = [_prefixed(run, prefix) for run, prefix in named]
    return Study(
        title=" and ".join(dict.fromkeys(run.name for run in runs)),
        runs=tuple(runs),
        arms=tuple(arm for run in moved for arm in run.arms),
        references=tuple(run.reference for run in moved),
        measures=tuple(measure for run in moved for measure in run.measures),
        samples=_joined([sample for run in moved for sample in run.samples]),
        notes=(*(_named(note, prefix) for run, prefix in named for note in run.notes), *_differences(runs)),
    )


def _told(end: float | None) -> float | None:
    return None if end is None or math.isnan(end) else end


def _prefixes(names: Sequence[str]) -> list[str]:
    if len(names) == 1:
        return [""]
    numbered = [
        name if names.count(name) == 1 else f"{name} {names[: i + 1].count(name)}" for i, name in enumerate(names)
    ]
    return [name + SEPARATOR for name in numbered]


def _named(note: str, prefix: str) -> str:
    return f"{prefix.removesuffix(SEPARATOR)}: {note}" if prefix else note


def _prefixed(run: RunFolder, prefix: str) -> RunFolder:
    known = {arm.name for arm in run.arms}

    def probe(name: str) -> str:
        head, dot, versus = name.partition(".")
        return f"{head}.{prefix}{versus}" if dot and versus in known else name

    return replace(
        run,
        reference=prefix + run.reference,
        arms=tuple(
            replace(arm, name=prefix + arm.name, curve=prefix + arm.curve, group=prefix + arm.group) for arm in run.arms
        ),
        measures=tuple(
            replace(m, arm=prefix + m.arm, curve=prefix + m.curve, probe=probe(m.probe)) for m in run.measures
        ),
        samples=tuple(
            replace(s, replies=tuple(replace(reply, arm=prefix + reply.arm) for reply in s.replies))
            for s in run.samples
        ),
    )


def _joined(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """Replies to one and the same prompt stand side by side, from whichever run they come."""
    together: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        together.setdefault(tuple(sample.chat), []).append(sample)
    return tuple(Sample(chat, tuple(r for s in group for r in s.replies)) for chat, group in together.items())


def _differences(runs: Sequence[RunFolder]) -> list[str]:
    """What makes figures of several runs hard to compare, in words."""
    notes = []
    models = {_name(run.facts.get("model"), "fingerprint") for run in runs}
    if len(models) > 1:
        notes.append("The runs start from different models; each win rate and KL is against its own run's base.")
    prompts = {_prompts(run.facts.get("data")) for run in runs}
    if len(prompts) > 1:
        notes.append("The runs were measured on different prompts; compare figures across them with care.")
    return notes


def _prompts(data: object) -> str:
    """The digest of what the arms were measured on."""
    entries = data if isinstance(data, Mapping) else {}
    return _name(entries.get("evaluate") or entries.get("prompts"), "digest")


def _name(entry: object, key: str) -> str:
    return str(entry.get(key, "")) if isinstance(entry, Mapping) else ""
