"""Where, from what seed and with what log a method runs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from truing.core.files import told
from truing.core.rng import Rng


class Log(Protocol):
    """Where progress and metrics go."""

    def say(self, text: str) -> None:
        """A line for the reader."""

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        """``done`` of ``total`` of a stage; the log decides how often to show it."""

    def metrics(self, row: dict[str, float]) -> None:
        """A row of training metrics, under TRL's names."""


class Quiet:
    """A log that keeps nothing."""

    def say(self, text: str) -> None:
        pass

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        pass

    def metrics(self, row: dict[str, float]) -> None:
        pass


class Terminal:
    """Lines on standard error, and metrics appended to a JSONL file where one is given."""

    def __init__(self, file: Path | None = None, *, interval: float = 5.0) -> None:
        self.file, self.interval = file, interval
        self._begun = False
        self._next: dict[str, float] = {}
        self._began: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        if now < self._next.get(stage, began + self.interval) and done < total:
            return
        self._next[stage] = now + self.interval
        left = (now - began) * (total - done) / done if done else 0.0
        ahead = f", {left:.0f} s left" if done < total else f", {now - began:.0f} s"
        self.say(f"  {stage}: {done:.0f}/{total:.0f}{ahead}{', ' + note if note else ''}")
        if done >= total:
            self._began.pop(stage), self._next.pop(stage)

    def metrics(self, row: dict[str, float]) -> None:
        if self.file is None:
            return
        with told(self.file):
            if not self._begun:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                _cut_to_lines(self.file)
                self._begun = True
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")


def _cut_to_lines(file: Path) -> None:
    """Take off the half of a line that a full disk or a killed process left at the end."""
    with file.open("ab+") as opened:
        opened.seek(0)
        opened.truncate(opened.read().rfind(b"\n") + 1)


@dataclass(frozen=True)
class Run:
    """What a method is told besides its base and its evidence.

    Attributes:
        seed: decides every random stream.
        work: a folder for checkpoints of this step, or None for none. Whoever made it removes it.
        cache: a folder for what can be computed again, shared between runs and processes, or None.
        resume: whether checkpoints found in ``work`` are taken up.
        log: where progress goes.
    """

    seed: int = 0
    work: Path | None = None
    cache: Path | None = None
    resume: bool = False
    log: Log = field(default_factory=Quiet)

    def rng(self, *names: object) -> Rng:
        """The random stream of that name."""
        return Rng(self.seed).child(*names)

    def within(self, name: str, log: Log | None = None) -> Run:
        """The run of a part: its own work folder, the same seed and cache."""
        return replace(self, work=self.work / name if self.work else None, log=log or self.log)
