"""How long commands that need no model take from their start to their end, beside what Python and torch take alone.

    python benchmarks/startup.py

Goal: under half a second. Every command is a process of its own, in turn, with compiled modules.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from harness.arguments import common, parser, start
from harness.figures import median, table
from harness.record import settle
from harness.running import ROOT
from harness.side import Clock, versions

COMMANDS: dict[str, Sequence[str]] = {
    "python": ("-c", "pass"),
    "import truing": ("-c", "import truing"),
    "truing --help": ("-m", "truing", "--help"),
    "truing methods": ("-m", "truing", "methods"),
    "truing check": ("-m", "truing", "check", "recipes/quickstart.yaml"),
    "import torch": ("-c", "import torch"),
}


def timed(words: Sequence[str]) -> dict[str, float]:
    """Seconds of one process: on the clock, and of the processor."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Clock() as clock:
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT, env=known)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": clock.seconds, "processor": used}


def main() -> None:
    """Once to compile, then in turn."""
    words = parser("startup", (__doc__ or "").split("\n")[0], repeats=9).parse_args()
    shared = common(words)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in COMMANDS}
    for repeat in range(shared.repeats + 1):
        for name, command in COMMANDS.items():
            found = timed(command)
            if repeat:
                runs[name].append({**found, "versions": versions()})
    rows = [
        {"command": name, "seconds": median(told, "seconds"), "processor": median(told, "processor")}
        for name, told in runs.items()
    ]
    settle("startup", shared, work={"repeats": shared.repeats}, runs=runs, tables={"": table(rows)})


if __name__ == "__main__":
    start(main)
