"""``accelerate launch -m truing run``: two processes make the run folder that one makes, and one of them speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small import comparison
from tiny import make_local

from truing import cli
from truing.core.errors import bad
from truing.pipeline import checking
from truing.pipeline.study import run

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = (
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)
"""``--multi_gpu`` is what makes accelerate start several processes; where there is no GPU, they use the processor."""


def launched(recipe: Path, out: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Two processes of ``truing run``."""
    words = [*LAUNCH, "--main_process_port", "0", "-m", "truing", "run", str(recipe), "--out", str(out)]
    environment = {**os.environ, "TRUING_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *words], env=environment, capture_output=True, text=True
    )


def test_two_processes_make_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    make_local().save(tmp_path / "model")
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    training = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 1}
    changed: dict[str, Any] = {
        "data": {"prompts": [{"prompt": f"Say {word}."} for word in ("rain", "salt", "wool", "ink")]},
        "steps": [{"synthesize/best_and_worst": {"draws": 3}}],  # drawn by one, and sent to the other
        "arms": {
            "dpo": [{"preference/dpo": training}],
            "merge": {"donors": {"tuned": "arms.dpo"}, "steps": [{"merge/linear": {"weight": 0.5}}]},
        },
    }
    recipe = comparison(tmp_path, tmp_path / "model", **changed)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe.raw)), encoding="utf-8")
    done = launched(tmp_path / "recipe.yaml", tmp_path / "two", tmp_path / "cache_of_two")
    assert done.returncode == 0, done.stderr[-3000:]
    run(recipe, tmp_path / "one")

    assert done.stdout.count("Report: ") == 1
    said = Counter(line for line in done.stderr.splitlines() if line.startswith(("arm ", "recipe: ", "shared")))
    assert len(said) >= 4
    assert set(said.values()) == {1}
    files = [sorted(str(f.relative_to(tmp_path / n)) for f in (tmp_path / n).rglob("*")) for n in ("one", "two")]
    assert files[0] == files[1]
    for arm in ("dpo", "merge"):
        one, two = (load_file(tmp_path / n / "arms" / arm / "model.safetensors") for n in ("one", "two"))
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
    told = json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))
    assert told["status"] == "finished"
    assert [arm["name"] for arm in told["arms"]] == ["base", "dpo", "merge"]
    rows = [
        (tmp_path / n / "arms" / "dpo.training.jsonl").read_text(encoding="utf-8").splitlines() for n in ("one", "two")
    ]
    for left, right in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-5)
        assert right["num_tokens"] == left["num_tokens"]


def test_only_the_main_process_tells_of_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise bad("here", "is a fault")

    monkeypatch.setattr(checking, "check", fail)
    words = ["check", "recipes/quickstart.yaml"]
    monkeypatch.chdir(ROOT)
    assert cli.main(words) == 2
    assert "is a fault" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert cli.main(words) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["copies", "shards", "zero"])
def test_the_documented_configurations_are_ones_that_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "docs" / "accelerate" / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "no"
    if name == "shards":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "zero":
        assert config.deepspeed_config["zero_stage"] == 2
        assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard"  # else it starts the others itself
