"""DPO side by side with TRL: the same pairs, model, batch, precision, threads and order; the reference included.

    python benchmarks/dpo_vs_trl.py --data harmless-base.jsonl --pairs 48 --batch 4

HH-RLHF from the Hub: ``hf download Anthropic/hh-rlhf harmless-base/train.jsonl.gz --repo-type dataset --local-dir hh``,
then ``--data hh/harmless-base/train.jsonl.gz``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import Common, common, pair_options, parser, start
from harness.figures import against, differences, table
from harness.pairs import Prepared, model_folder
from harness.record import settle
from harness.running import Side, alternate
from harness.trl import chosen_pairs, job, peer_job, peers, trl_options, trl_python, values


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("dpo_vs_trl", (__doc__ or "").split("\n")[0])
    pair_options(made, pairs=48, batch=4)
    trl_options(made, peers="default,plain,precomputed")
    made.add_argument("--lean", type=int, default=0, help="us once more, with so many tokens a forward pass")
    words = made.parse_args()
    if words.short:
        words.pairs, words.batch = min(words.pairs, 4), min(words.batch, 2)
    return words


def agreement(ours: Sequence[Mapping[str, Any]], peers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """For every peer that took the pairs in our order: whether the tokens agree, and how far the metrics differ."""
    rows = []
    for name, runs in peers.items():
        theirs = runs[0]
        if theirs["settings"]["train_sampling_strategy"] == "sequential":
            same = "yes" if theirs["tokens"] == ours[0]["tokens"] else "no"
            found = differences(ours[0]["steps"], theirs["steps"])
            rows.append({"largest difference from": name, "steps": len(theirs["steps"]), "same tokens": same, **found})
    return table(rows)


def losses(ours: Sequence[Mapping[str, Any]], peers: Mapping[str, Sequence[Mapping[str, Any]]], steps: int = 8) -> str:
    """The loss of the first steps, every side in its column."""
    sides = {"truing": ours, **peers}
    rows = []
    for step in range(min(steps, *(len(runs[0]["steps"]) for runs in sides.values()))):
        shown = {name: f"{runs[0]['steps'][step]['loss']:.6f}" for name, runs in sides.items()}
        rows.append({"step": step + 1, **shown})
    return table(rows)


def sides(words: argparse.Namespace, shared: Common, pairs: Prepared, model: str) -> list[Side]:
    """Us and every peer that was asked for."""
    asked = peers(words.peers)
    python = trl_python(shared)
    told = {**job(words, model), "pairs": str(pairs.ours), "order": pairs.order, "settings": values(words.set)}
    made = [Side("truing", "ours_dpo.py", told)]
    if words.lean:
        made.append(
            Side("lean", "ours_dpo.py", {**told, "settings": {**told["settings"], "tokens_per_batch": words.lean}})
        )
    for name, settings in asked.items():
        made.append(Side(f"TRL {name}", "trl_dpo.py", peer_job(words, model, pairs, settings), python))
    return made


def main() -> None:
    """Prepare, run in turn, settle."""
    words = options()
    shared = common(words)
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as folder:
        model = model_folder(words.model)
        pairs = chosen_pairs(words, Path(folder), model)
        runs = alternate(sides(words, shared, pairs, model), repeats=shared.repeats, threads=shared.threads)
    ours, lean, others = runs.pop("truing"), runs.pop("lean", None), runs
    facts = {"model": words.model, **pairs.facts, "pairs_a_step": words.batch, "bf16": words.bf16}
    tables = {
        "Throughput and memory": table(against(ours, others, work=words.pairs, unit="pair")),
        **_leaner(lean, others, words),
        "The same mathematics": agreement(ours, others),
        "Loss a step": losses(ours, others),
    }
    kept = {"truing": ours, **({"lean": lean} if lean else {}), **others}
    settle("dpo_vs_trl", shared, work=facts, runs=kept, tables=tables)


def _leaner(lean: Any, others: Mapping[str, Any], words: argparse.Namespace) -> dict[str, str]:
    """The table of our other side, where there is one."""
    title = f"The same with {words.lean} tokens a forward pass"
    return {title: table(against(lean, others, work=words.pairs, unit="pair"))} if lean else {}


if __name__ == "__main__":
    start(main)
