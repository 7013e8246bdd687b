"""Five objectives on one data set: five runs of TRL against one recipe with five arms and one reference pass.

    python benchmarks/sweep_vs_trl.py --data harmless-base.jsonl --pairs 48 --batch 4

Both sides save five models. Ours is timed from the recipe to the report, loading the model included; TRL's runs are
timed after loading, each in a process of its own, and added up.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import Common, common, pair_options, parser, start
from harness.figures import against, memory, number, table
from harness.pairs import Prepared, model_folder
from harness.record import settle
from harness.running import Side, run_side
from harness.trl import chosen_pairs, job, peer_job, peers, trl_options, trl_python, values

from truing.core.errors import bad, did_you_mean
from truing.core.method import names

OBJECTIVES = "dpo=sigmoid,ipo=ipo,hinge=hinge,robust=robust,sppo_hard=sppo_hard"
OWN: Mapping[str, Mapping[str, Any]] = {"robust": {"label_smoothing": 0.1}}
"""What an objective needs beyond the shared settings, under the name that both sides give it: 0 would make it DPO."""


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("sweep_vs_trl", (__doc__ or "").split("\n")[0])
    pair_options(made, pairs=48, batch=4)
    made.add_argument("--objectives", default=OBJECTIVES, help="OURS=TRLS,...: names of the losses (%(default)s)")
    trl_options(made, peers="precomputed")
    words = made.parse_args()
    if words.short:
        words.pairs, words.batch = min(words.pairs, 2), min(words.batch, 2)
    return words


def objectives(given: str) -> dict[str, str]:
    """Our names of the losses with TRL's.

    Raises:
        InputError: a loss that we do not have.
    """
    pairs = [(ours.strip(), theirs.strip() or ours.strip()) for ours, _, theirs in
             (word.partition("=") for word in given.split(",") if word.strip())]  # fmt: skip
    known = [name.removeprefix("preference/") for name in names() if name.startswith("preference/")]
    if odd := [ours for ours, _ in pairs if ours not in known]:
        raise bad("--objectives", f"there is no preference/{odd[0]}", did_you_mean(odd[0], known))
    return dict(pairs)


def trl_runs(sides: Sequence[Side], threads: int) -> dict[str, Any]:
    """One run of TRL for every objective; seconds are added up, memory is the largest."""
    told = {side.name: run_side(side, threads) for side in sides}
    most = max(told.values(), key=memory)
    return {
        "seconds": sum(run["seconds"] for run in told.values()),
        "peak_bytes": most["peak_bytes"],
        "device_bytes": most["device_bytes"],
        "versions": most["versions"],
        "arms": {name: run["seconds"] for name, run in told.items()},
        "losses": {name: [row["loss"] for row in run["steps"]] for name, run in told.items()},
    }


def by_objective(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Seconds of every arm and the loss it began and ended with, in the first repeat."""
    rows = []
    for name in runs["truing"][0]["arms"]:
        row: dict[str, Any] = {"objective": name}
        for side, told in runs.items():
            losses = told[0]["losses"][name]
            row[f"{side}: s"] = told[0]["arms"][name]
            row[f"{side}: loss"] = f"{number(losses[0])} to {number(losses[-1])}"
        rows.append(row)
    return table(rows)


def measure(words: argparse.Namespace, shared: Common, pairs: Prepared, model: str) -> dict[str, list[dict[str, Any]]]:
    """Every side in turn."""
    asked, losses = peers(words.peers), objectives(words.objectives)
    python = trl_python(shared)
    told = {**job(words, model), "pairs": str(pairs.ours), "objectives": list(losses), "settings": values(words.set)}
    ours = Side("truing", "ours_sweep.py", {**told, "own": OWN})
    runs: dict[str, list[dict[str, Any]]] = {"truing": [], **{f"TRL {name}": [] for name in asked}}
    for _ in range(shared.repeats):
        runs["truing"].append(run_side(ours, shared.threads))
        for name, settings in asked.items():
            base = peer_job(words, model, pairs, settings)
            sides = []
            for arm, theirs in losses.items():
                given = {**base["settings"], "loss_type": [theirs], **OWN.get(arm, {})}
                sides.append(Side(arm, "trl_dpo.py", {**base, "settings": given, "save": True}, python))
            runs[f"TRL {name}"].append(trl_runs(sides, shared.threads))
    return runs


def main() -> None:
    """Prepare, run in turn, settle."""
    words = options()
    shared = common(words)
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as name:
        model = model_folder(words.model)
        pairs = chosen_pairs(words, Path(name), model)
        runs = measure(words, shared, pairs, model)
    facts = {"model": words.model, **pairs.facts, "pairs_a_step": words.batch, "objectives": words.objectives}
    ours, others = runs["truing"], {name: told for name, told in runs.items() if name != "truing"}
    work = words.pairs * len(objectives(words.objectives))
    tables = {
        "Throughput and memory": table(against(ours, others, work=work, unit="pair and objective")),
        "By objective": by_objective(runs),
    }
    settle("sweep_vs_trl", shared, work=facts, runs=runs, tables=tables)


if __name__ == "__main__":
    start(main)
