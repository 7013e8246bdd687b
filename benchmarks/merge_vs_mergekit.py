"""Merging side by side with mergekit: time, memory, and whether both write the same numbers.

    python benchmarks/merge_vs_mergekit.py --methods linear,slerp,ties,dare_ties

The same YAML on both sides, on copies of the model with seeded noise (``--copies``), and with ``--synthetic-gb`` on
made-up models of that size each. Their files are read once before every run, so that both sides find them in memory as
far as they fit. Seconds are of the whole process, from its start to its end, and of the merge alone, without loading
libraries; and then what it takes until the outcome is on the disk, which ours waits for itself. Then every method that
both compute without chance is run once on small models and the numbers are compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from harness.arguments import Common, common, parser, start
from harness.figures import median, peak, table
from harness.merges import difference, made_up_models, noisy_copies, recipe, remove, settle_files, warm
from harness.pairs import model_folder
from harness.record import settle
from harness.running import Side, alternate
from harness.side import Clock
from harness.venv import peer_python

from truing.core.errors import RunError

MERGEKIT = "mergekit==0.1.5"
TIMED = ("linear", "slerp", "ties", "dare_ties")
AGREED = (
    "linear", "slerp", "nuslerp", "multislerp", "karcher", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties",
    "sce", "model_stock", "nearswap", "arcee_fusion", "ram", "ramplus_tl", "passthrough",
)  # fmt: skip
NEEDS = {"slerp": 2, "nearswap": 2, "arcee_fusion": 2, "nuslerp": 2, "passthrough": 1}
"""How many models a method takes, where that is not left open."""


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("merge_vs_mergekit", (__doc__ or "").split("\n")[0], repeats=1)
    made.add_argument("--methods", default=",".join(TIMED), help="that are timed (%(default)s)")
    made.add_argument("--copies", default="2,3", help="models with a weight; task vectors have a base besides")
    made.add_argument("--synthetic-gb", type=float, default=0.0, help="also made-up models of this size each")
    made.add_argument("--synthetic-methods", default="linear,slerp", help="timed on those (%(default)s)")
    made.add_argument("--synthetic-repeats", type=int, default=1, help="runs of those, of each side (%(default)s)")
    made.add_argument("--no-agreement", action="store_true", help="do not compare the numbers of all methods")
    return made.parse_args()


def timed(
    work: str, method: str, models: Sequence[str], folder: Path, shared: Common, peer: Path, kept: dict[str, Any]
) -> list[dict[str, Any]]:
    """Both sides at one merge; rows of the table. What the sides told is ``kept`` too."""
    runs = both([(method, recipe(method, models))], models, folder, shared, peer)
    if failed := [f"{side}: {told[0]['errors']}" for side, told in runs.items() if told[0]["errors"]]:
        raise RunError("; ".join(failed))
    kept |= {f"{method} of {work}, {side}": told for side, told in runs.items()}
    apart, _, many = difference(str(folder / "truing" / method), str(folder / "mergekit" / method))
    for side in runs:
        remove(str(folder / side / method))
    rows, own, chance = [], runs["truing"], method.startswith(("dare", "della"))
    for side, told in runs.items():
        seconds, alone = median(told, "process_seconds"), median(told, "work_seconds")
        rows.append(
            {
                "merge": f"{method} of {work}",
                "side": side,
                "seconds": seconds,
                "merge alone": alone,
                "then to the disk": median(told, "disk_seconds"),
                "peak GB": peak(told) / 1e9,
                "we are faster by": seconds / median(own, "process_seconds"),
                "merge alone by": alone / median(own, "work_seconds"),
                "our share of its memory": peak(own) / peak(told),
                "largest difference": "random masks" if chance else f"{apart:.1e}",
                "numbers further apart than 1e-4": "" if chance else many,
            }
        )
    return rows


def both(
    merges: Sequence[tuple[str, Mapping[str, Any]]], models: Sequence[str], folder: Path, shared: Common, peer: Path
) -> dict[str, list[dict[str, Any]]]:
    """Run some merges on both sides, a process each, into ``folder/SIDE/NAME``."""
    sides = []
    for name, script, python in (("truing", "ours_merge.py", None), ("mergekit", "mergekit_merge.py", peer)):
        jobs = []
        for method, raw in merges:
            file = folder / f"{method}.yml"
            file.write_text(yaml.safe_dump(dict(raw), sort_keys=False), encoding="utf-8")
            jobs.append({"file": str(file), "out": str(folder / name / method)})
        sides.append(Side(name, script, {"merges": jobs}, python))

    def before(side: Side) -> None:
        remove(str(folder / side.name))
        warm(models)

    def after(side: Side, told: dict[str, Any]) -> None:
        with Clock() as clock:
            settle_files(folder / side.name)
        told["disk_seconds"] = clock.seconds

    return alternate(sides, repeats=shared.repeats, threads=shared.threads, before=before, after=after)


def agreement(model: str, folder: Path, shared: Common, peer: Path) -> list[dict[str, Any]]:
    """The largest difference of every method's numbers, on small models."""
    folder = folder / "agreement"
    folder.mkdir()
    models = made_up_models(folder, model, 3, bytes_each=4e6, kind="float32")
    merges = [(method, recipe(method, models[: NEEDS.get(method, 3)])) for method in AGREED]
    runs = both(merges, models, folder, replace(shared, repeats=1), peer)
    failed = {out: side for side, told in runs.items() for out in told[0]["errors"]}
    rows = []
    for method in AGREED:
        if refused := [failed[out] for side in runs if (out := str(folder / side / method)) in failed]:
            print(f"  {method}: refused by {', '.join(refused)}: {runs[refused[0]][0]['errors']}", file=sys.stderr)
            continue
        apart, size, _ = difference(str(folder / "truing" / method), str(folder / "mergekit" / method))
        rows.append({"method": method, "largest difference": apart, "largest number": size})
    return rows


def main() -> None:
    """Make the models, run in turn, compare, settle."""
    words = options()
    shared = common(words)
    model = model_folder(words.model)
    peer = peer_python("mergekit", [MERGEKIT], home=shared.venv, pip_flags=shared.pip_flags)
    counts = [2] if words.short else [int(count) for count in words.copies.split(",")]
    rows: list[dict[str, Any]] = []
    tables: dict[str, str] = {}
    kept: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as name:
        folder = Path(name)
        if not words.no_agreement:
            tables["The same numbers"] = table(agreement(model, folder, shared, peer))
        places = [model, *noisy_copies(folder, model, max(counts))]
        for count in counts:
            for method in words.methods.split(","):
                if NEEDS.get(method, count) != count:
                    continue
                based = method not in ("linear", "slerp", "karcher", "multislerp", "nuslerp")
                rows += timed(f"{count}", method, places[: count + based], folder, shared, peer, kept)
        for place in places[1:]:
            remove(place)
        if words.synthetic_gb:
            methods = words.synthetic_methods.split(",")
            count = 2 if {*methods} <= {"linear", "slerp"} else 3
            made = made_up_models(folder, model, count, bytes_each=words.synthetic_gb * 1e9, kind="bfloat16")
            few = replace(shared, repeats=min(shared.repeats, words.synthetic_repeats))
            for method in methods:
                used = made[:2] if method in ("linear", "slerp") else made
                rows += timed(f"2, {words.synthetic_gb:g} GB", method, used, folder, few, peer, kept)
            for place in made:
                remove(place)
        tables = {"Time and memory": table(rows), **tables}
    facts = {"model": words.model, "copies": words.copies, "synthetic_gb": words.synthetic_gb, "peer": MERGEKIT}
    settle("merge_vs_mergekit", shared, work=facts, runs=kept, tables=tables)


if __name__ == "__main__":
    start(main)
