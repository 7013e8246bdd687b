"""Useful operations a second of a training step, as a share of what the machine does in plain matrix products.

    python benchmarks/utilisation.py --data harmless-base.jsonl --pairs 48 --batch 4

The machine's rate is measured in the same process, before and after: on large square matrices (its peak), and on the
matrices that a step multiplies. What is recomputed, padded or masked is no useful work.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import common, pair_options, parser, start
from harness.figures import table
from harness.pairs import model_folder
from harness.record import settle
from harness.running import Side, alternate
from harness.trl import chosen_pairs, job, values


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("utilisation", (__doc__ or "").split("\n")[0])
    pair_options(made, pairs=48, batch=4)
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of ours")
    words = made.parse_args()
    if words.short:
        words.pairs, words.batch = min(words.pairs, 6), min(words.batch, 2)
    return words


def shares(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Work, seconds and rate of every part, and their share of the machine's rate; medians over repeats."""
    square = statistics.median(run["machine"]["square"] for run in runs)
    own = statistics.median(run["machine"]["own"] for run in runs)
    rows = [
        _row("machine: square matrices", 0.0, 0.0, square, square, own),
        _row("machine: a step's matrices", 0.0, 0.0, own, square, own),
    ]
    names = {"training loop": "loop", "reference pass": "reference"}
    found = {name: [(run[key]["work"], run[key]["seconds"]) for run in runs] for name, key in names.items()}
    found |= {name: [tuple(run["parts"][name]) for run in runs] for name in runs[0]["parts"]}
    for name, told in found.items():
        work, seconds = told[0][0], statistics.median(seconds for _, seconds in told)
        rows.append(_row(name, work, seconds, work / seconds, square, own))
    return rows


def _row(name: str, work: float, seconds: float, rate: float, square: float, own: float) -> dict[str, Any]:
    """A line of the table: operations in units of 1e9."""
    figures = {"useful GFLOP": work / 1e9, "seconds": seconds, "GFLOP/s": rate / 1e9}
    return {"part": name, **figures, "of the peak": percent(rate / square), "of a step's matrices": percent(rate / own)}


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * share:.0f} %"


def by_kind(runs: Sequence[Mapping[str, Any]]) -> str:
    """Where a step's time goes, by kind of operation."""
    told = runs[0]["kinds"]
    whole = sum(told.values())
    rows = sorted(told.items(), key=lambda item: -item[1])
    return table([{"operations": kind, "seconds": s, "share": percent(s / whole)} for kind, s in rows])


def main() -> None:
    """Prepare, measure, settle."""
    words = options()
    shared = common(words)
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as folder:
        model = model_folder(words.model)
        pairs = chosen_pairs(words, Path(folder), model)
        told = {**job(words, model), "pairs": str(pairs.ours), "order": pairs.order, "settings": values(words.set)}
        side = Side("truing", "ours_utilisation.py", told)
        runs = alternate([side], repeats=shared.repeats, threads=shared.threads)
    facts = {"model": words.model, **pairs.facts, "pairs_a_step": words.batch, "bf16": words.bf16}
    facts["tokens_a_step"] = runs["truing"][0]["tokens_a_step"]
    tables = {"Useful work": table(shares(runs["truing"])), "One step by kind of operation": by_kind(runs["truing"])}
    settle("utilisation", shared, work=facts, runs=runs, tables=tables)


if __name__ == "__main__":
    start(main)
