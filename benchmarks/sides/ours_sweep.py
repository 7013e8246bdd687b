"""Our side of a sweep: one recipe with an arm for every objective, from nothing to saved models and a report."""

from __future__ import annotations

import json
from pathlib import Path

from harness.side import Clock, job, tell
from ours_dpo import training

from truing.core.recipe import parse
from truing.pipeline.study import run


def main() -> None:
    """Write the recipe, run it under the clock, tell what each arm took."""
    work = job()
    arms = {
        name: [{f"preference/{name}": {**training(work), **work["own"].get(name, {})}}] for name in work["objectives"]
    }
    raw = {
        "model": work["model"],
        "seed": work["seed"],
        "data": {"pairs": work["pairs"]},
        "probes": ["cost"],
        "arms": arms,
    }
    out = Path(work["scratch"]) / "sweep"
    with Clock() as clock:
        run(parse(raw, name="sweep"), out)
    losses = {}
    for name in work["objectives"]:
        rows = (out / "arms" / f"{name}.training.jsonl").read_text(encoding="utf-8").splitlines()
        losses[name] = [json.loads(row)["loss"] for row in rows]
    spent = {name: json.loads((out / "work" / "spent" / f"{name}.json").read_text("utf-8")) for name in losses}
    tell(seconds=clock.seconds, losses=losses, arms={name: row["seconds"] for name, row in spent.items()})


if __name__ == "__main__":
    main()
