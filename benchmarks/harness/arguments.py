"""Options that the benchmarks share, and how one is started."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.machine import cores, describe
from truing.core.errors import InputError, RunError
from truing.machine import settle_kernels
from truing.pipeline.study import cache_folder


@dataclass(frozen=True)
class Common:
    """Options of every benchmark, and the machine as it was when the benchmark began."""

    threads: int
    repeats: int
    venv: Path
    pip_flags: str
    out: Path
    results: Path | None
    machine: dict[str, object]


def parser(name: str, summary: str, *, repeats: int = 3) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=summary)
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
    made.add_argument(
        "--model", default="smollm2", help="an embedded model, a folder, or a Hub name in the local cache"
    )
    made.add_argument("--threads", type=int, default=threads, help="the same for every side (%(default)s)")
    made.add_argument("--repeats", type=int, default=repeats, help="runs of each side, in turn (%(default)s)")
    made.add_argument("--short", action="store_true", help="small sizes and one repeat, to see that it runs")
    made.add_argument("--venv", type=Path, default=cache_folder() / "benchmarks", help="where peers are installed")
    made.add_argument("--pip-flags", default="", help="for pip, e.g. an index with CPU builds of torch")
    made.add_argument("--out", type=Path, default=Path("runs/benchmarks") / f"{name}.json", help="the JSON")
    made.add_argument("--results", type=Path, help="a Markdown page whose section of this benchmark is renewed")
    made.add_argument("--machine-note", default="", help="said beside the machine's description")
    return made


def pair_options(made: argparse.ArgumentParser, *, pairs: int, batch: int) -> None:
    """Options of benchmarks that train on pairs."""
    made.add_argument("--data", default="made-up", help="a file, folder or Hub name with pairs; or made-up ones")
    made.add_argument("--pairs", type=int, default=pairs, help="pairs trained on, one epoch (%(default)s)")
    made.add_argument("--batch", type=int, default=batch, help="pairs a step (%(default)s)")
    made.add_argument("--turns", type=int, default=3, help="fewest turns of a prompt; 1 takes all (%(default)s)")
    made.add_argument("--max-length", type=int, default=1024, help="most tokens of a prompt and a reply (%(default)s)")
    made.add_argument("--learning-rate", type=float, default=1e-6, help="constant (%(default)s)")
    made.add_argument("--beta", type=float, default=0.1, help="of every objective (%(default)s)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--bf16", action="store_true", help="bfloat16 autocast on every side; float32 otherwise")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of every side (%(default)s)")


def common(words: argparse.Namespace) -> Common:
    """The shared options of parsed words; ``--short`` is one repeat."""
    return Common(
        words.threads,
        1 if words.short else words.repeats,
        words.venv.expanduser().resolve(),
        words.pip_flags,
        words.out,
        words.results,
        describe(words.threads, words.machine_note),
    )


def start(main: Callable[[], None]) -> None:
    """Run a benchmark; kernels are chosen once, here, and every side inherits them."""
    settle_kernels()
    try:
        main()
    except (InputError, RunError) as error:
        sys.exit(f"error: {error}")
