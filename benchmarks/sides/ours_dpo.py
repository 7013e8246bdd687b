"""Our side: one preference method on given pairs, reference pass included."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness.side import Clock, job, tell, token_digest

from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.run import Quiet, Run
from truing.data.load import load


class Steps(Quiet):
    """Keeps the metrics of every step, and when they came (seconds of the performance counter)."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.at: list[float] = []

    def metrics(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        self.at.append(time.perf_counter())


def training(work: dict[str, Any]) -> dict[str, Any]:
    """The settings that both sides share, under our names; with what was asked for on top."""
    return {
        "beta": work["beta"],
        "learning_rate": work["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "per_device_train_batch_size": work["batch"],
        "bf16": work["bf16"],
        "logging_steps": 1,
        **work["settings"],
    }


def main() -> None:
    """Load, train under the clock, tell."""
    work = job()
    from truing.models import load_model

    base: Any = load_model(work["model"], device=work["device"])
    pairs = load("pairs", work["pairs"]).rows
    method = build("preference/dpo", **training(work))
    log = Steps()
    with Clock() as clock:
        method(base, Evidence(pairs=pairs), Run(work["seed"], work=Path(work["scratch"]) / "work", log=log))
    ordered = [pairs[i] for i in work["order"]]
    trees = base.encode_many([p.prompt for p in ordered], [(p.chosen, p.rejected) for p in ordered])
    digest = token_digest([(tree.prompt, *tree.replies) for tree in trees])
    tell(seconds=clock.seconds, steps=log.rows, tokens=digest, settings=training(work))


if __name__ == "__main__":
    main()
