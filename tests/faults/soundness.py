"""What must hold of a run's folder whatever happened: nothing under its final name is incomplete."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from truing.core.files import UNFINISHED


def unfinished(folder: Path) -> list[Path]:
    """What carries a temporary name."""
    return list(folder.rglob(f"{UNFINISHED}*"))


def check_sound(folder: Path) -> None:
    """Every file under its final name can be read to its end."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or any(part.startswith(UNFINISHED) for part in file.relative_to(folder).parts):
            continue
        text = "" if file.suffix == ".safetensors" else file.read_text(encoding="utf-8")
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                assert all(opened.get_tensor(name).isfinite().all() for name in opened.keys()), file  # noqa: SIM118 - no mapping
        elif file.suffix == ".json":
            assert isinstance(json.loads(text), dict | list), file
        elif file.suffix == ".jsonl":
            lines = text.split("\n")
            whole = lines[:-1]  # the log of a training is appended to: what was not ended is cut off when it goes on
            assert lines[-1] == "" or file.name.endswith(".training.jsonl"), file
            assert all(isinstance(json.loads(line), dict) for line in whole), file
        elif file.suffix == ".html":
            assert text.rstrip().endswith("</html>"), file


def results(folder: Path) -> dict[str, object]:
    """All that recipe and seed decide: weights byte for byte, measures, samples, the last log row of every step."""
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("arms/**/model.safetensors")}
    measured = [json.loads(line) for line in (folder / "measures.jsonl").read_text(encoding="utf-8").splitlines()]
    log = (folder / "arms" / "dpo.training.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {(row := json.loads(line))["step"]: row for line in log}
    timeless = {
        step: {k: v for k, v in row.items() if k not in ("tokens_per_second", "peak_memory")}
        for step, row in rows.items()
    }
    return {
        "weights": weights,
        "measures": [row for row in measured if row["probe"] not in ("cost.seconds", "cost.memory")],
        "samples": (folder / "samples.jsonl").read_bytes(),
        "log": timeless,
        "arms": [arm["name"] for arm in json.loads((folder / "run.json").read_text(encoding="utf-8"))["arms"]],
        "status": json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }
