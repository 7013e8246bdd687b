"""A run folder as the pipeline writes it, small enough to reason about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from report_helpers import MakeRun, Spec, kl, win

from truing.core.measures import Measure


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run({"arm": {probe: settings}}, ...)`` writes a run folder and gives its path.

    Settings named ``_curve``, ``_dial``, ``_arm``, ``_steps`` and ``_training`` (rows) belong to the arm; the rest are
    probes.
    """

    def make(
        arms: Mapping[str, Spec],
        *,
        folder: str = "run",
        samples: Sequence[Spec] = (),
        **facts: Any,
    ) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True)
        entries, lines = [], []
        for number, (name, settings) in enumerate(arms.items()):
            curve, dial = settings.get("_curve", name), settings.get("_dial")
            log = None
            if rows := settings.get("_training"):
                log = f"arms/{number}/training.jsonl"
                (path / log).parent.mkdir(parents=True)
                (path / log).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            steps = settings.get("_steps", [] if name == "base" else [curve])
            of_recipe = {"arm": settings.get("_arm", curve), "curve": curve, "dial": dial, "steps": steps}
            entries.append({"name": name, **of_recipe, "training": log, "seconds": 1.5})
            for probe, fields in settings.items():
                if not probe.startswith("_"):
                    unit = "probability" if probe.startswith("win_rate") else ""
                    place = {"arm": name, "curve": curve, "dial": tuple(dial) if dial else None}
                    lines.append(Measure(**{"probe": probe, "unit": unit, **place, **fields}).to_json() + "\n")
        run = {"name": "trial", "seed": 0, "reference": "base", "status": "finished", "arms": entries, **facts}
        (path / "run.json").write_text(json.dumps(run), encoding="utf-8")
        (path / "measures.jsonl").write_text("".join(lines), encoding="utf-8")
        if samples:
            text = "".join(json.dumps(sample) + "\n" for sample in samples)
            (path / "samples.jsonl").write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture
def trial(make_run: MakeRun) -> Path:
    """Five arms with everything a report can show."""
    log = [
        {
            "step": s,
            "loss": 0.7 - 0.01 * s,
            "rewards/margins": 0.02 * s,
            "logps/chosen": -90.0,
            "logps/rejected": -90.0 - s,
            "displacement/chosen": -0.5 * s,
            "displacement/rejected": -1.0 * s,
        }
        for s in range(1, 11)
    ]
    length = {"value": 80.0, "low": 76.0, "high": 84.0, "n": 100, "unit": "tokens"}
    dpo = {"_curve": "dpo", "length": length, "reward": {"value": 0.5, "better": "up"}}
    best = {"_curve": "best_of_n", "length": length, "reward": {"value": 0.4, "better": "up"}}
    return make_run(
        {
            "base": {"win_rate": {"value": 0.5, "low": 0.5, "high": 0.5, "kind": "exact"}, "length": length},
            "dpo/beta=0.1": {"_dial": ["beta", 0.1], "_training": log, **dpo, **win(0.62), **kl(0.9)},
            "dpo/beta=0.05": {"_dial": ["beta", 0.05], "_training": log, **dpo, **win(0.71), **kl(1.8)},
            "best_of_n/n=4": {"_dial": ["n", 4], **best, **win(0.60), **kl(0.636, kind="bound")},
            "prompt": {**win(0.55), **kl(9.0)},
        },
        samples=[
            {
                "chat": [{"role": "user", "content": "Name a sea."}],
                "replies": [
                    {"arm": "base", "text": "The Baltic.", "score": 0.25, "finish": "stop"},
                    {"arm": "prompt", "text": "The Aral", "score": 1.0, "finish": "length"},
                ],
            }
        ],
        recipe={"name": "trial", "model": "tiny"},
        versions={"truing": "0.1.0"},
        model={"name": "tiny", "fingerprint": "f00d"},
        data={
            "prompts": {
                "source": "p.jsonl",
                "digest": "d1",
                "ledger": {"kept": 9, "refused": 1, "reasons": {"bad JSON": 1}},
            }
        },
    )
