"""Sides as processes of their own, one after the other, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.figures import memory
from harness.side import Clock
from truing.core.errors import RunError

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: for tables.
        script: its file in ``benchmarks/sides``.
        job: settings, as plain values.
        python: the interpreter; ours where it is None.
    """

    name: str
    script: str
    job: Mapping[str, Any]
    python: Path | None = None


def environment(threads: int, scratch: Path, *, ours: bool) -> dict[str, str]:
    """What every side runs under: the same threads and kernels, nothing from a hub, no cache of an earlier run."""
    paths = [str(BENCHMARKS), *([str(ROOT)] if ours else [])]
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_CACHE": str(scratch / "datasets"),
        "TRUING_CACHE": str(scratch / "truing"),
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def run_side(side: Side, threads: int) -> dict[str, Any]:
    """Run one side once, in a scratch folder that is gone afterwards.

    Raises:
        RunError: it failed or did not end with a result.
    """
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as name:
        scratch = Path(name)
        file = scratch / "job.json"
        file.write_text(json.dumps({**side.job, "scratch": name, "threads": threads}), encoding="utf-8")
        words = [str(side.python or sys.executable), str(BENCHMARKS / "sides" / side.script), str(file)]
        env = environment(threads, scratch, ours=side.python is None)
        with Clock() as clock:
            done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=name, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RunError(f"{side.name} failed with exit code {done.returncode}:\n{tail}")
    lines = done.stdout.strip().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise RunError(f"{side.name} ended without a result") from error
    return {**found, "process_seconds": clock.seconds}


def alternate(
    sides: Sequence[Side],
    *,
    repeats: int,
    threads: int,
    before: Callable[[Side], None] = lambda side: None,
    after: Callable[[Side, dict[str, Any]], None] = lambda side, told: None,
) -> dict[str, list[dict[str, Any]]]:
    """Every side in turn, ``repeats`` times: what slows the machine down for a while is shared by all.

    Args:
        before, after: called around every run of a side; ``after`` gets what it told, and may add to that.
    """
    runs: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for repeat in range(repeats):
        for side in sides:
            before(side)
            found = run_side(side, threads)
            after(side, found)
            runs[side.name].append(found)
            told = f"{found['seconds']:.1f} s, {memory(found) / 1e9:.2f} GB"
            print(f"  {repeat + 1}/{repeats} {side.name}: {told}", file=sys.stderr, flush=True)
    return runs
