"""Two processes learn what one learns, whichever engine adds them up, and take up each other's checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import TREES, flat, train
from safetensors.torch import load_file
from tiny import Notes, make_local
from together import METHODS, PARTS, SPREAD, STEPS, by_method, surveyed

from truing.core.run import Run
from truing.engine.processes import Processes, here, launched, main_process, shares
from truing.models.local import Local

HERE = Path(__file__).parent


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_a_partition_and_even(count: int) -> None:
    costs = [(7 * i) % 13 + 1 for i in range(24)]
    parts = shares(costs, count)
    assert sorted(i for part in parts for i in part) == list(range(24))
    sums = [sum(costs[i] for i in part) for part in parts]
    assert max(sums) - min(sums) <= max(costs)
    assert all(part == sorted(part) for part in parts)


def test_fewer_examples_than_processes() -> None:
    assert shares([4], 3) == [[0], [], []]


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here() == Processes()
    assert here().once(lambda: 3) == 3
    assert here().gathered("x") == ["x"]
    assert here().totals({"a": 1.0}) == {"a": 1.0}
    assert main_process()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launched() == 4
    assert not main_process()


def stopped(base: Local, folder: Path) -> None:
    """One process, stopped after four of its five steps."""
    with pytest.raises(KeyboardInterrupt):
        train(base, run=Run(work=folder, log=Notes(stop_at=4)), **STEPS)


class Outcome:
    """What two processes left, and what one leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, make_local()
        self.engine = folder.name.rstrip("0123456789")
        told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
        self.every: list[dict[str, Any]] = told["every"]
        self.rows: list[dict[str, float]] = told["rows"]

    def same(self, name: str, wanted: Local, least: float = 0.05) -> None:
        """Both moved, by a norm of ``least``, and to the same place."""
        found = load_file(self.folder / f"{name}.safetensors")
        start = (make_local("qwen2") if name == "tied" else self.base).weights()
        assert (flat(wanted) - torch.cat([t.double().flatten() for t in start.values()])).norm() > least
        for key, tensor in wanted.weights().items():
            torch.testing.assert_close(found[key], tensor.detach(), rtol=0, atol=1e-5)


ENGINES: dict[str, dict[str, str]] = {
    "copies": {"ACCELERATE_USE_CPU": "true"},
    "shards": {
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    },
    "zero": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
}
"""What a launcher tells accelerate, in its environment."""


@pytest.fixture(scope="module", params=ENGINES)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    if request.param == "zero":
        pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp(request.param)
    stopped(make_local(), folder / "by_one")
    paths = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **ENGINES[request.param]}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [str(HERE / "together.py"), str(folder), request.param]
    done = subprocess.run([sys.executable, *launch, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Outcome(folder)


class TestTwoProcesses:
    def test_the_trajectory_is_that_of_one(self, outcome: Outcome) -> None:
        notes = Notes()
        wanted = train(outcome.base, run=Run(log=notes), per_device_train_batch_size=4, tokens_per_batch=40)
        outcome.same("plain", wanted)
        for found, row in zip(outcome.rows, notes.rows, strict=True):
            assert found.keys() == row.keys()
            timeless = {k: v for k, v in row.items() if k not in ("tokens_per_second", "peak_memory")}
            assert {k: found[k] for k in timeless} == pytest.approx(timeless, rel=1e-4, abs=1e-5)

    def test_tied_embeddings(self, outcome: Outcome) -> None:
        outcome.same("tied", train(make_local("qwen2"), per_device_train_batch_size=4))

    def test_a_step_is_surveyed_whole_though_each_has_a_part(self, outcome: Outcome) -> None:
        outcome.same("surveyed", surveyed(outcome.base))

    def test_layers_that_are_computed_twice(self, outcome: Outcome) -> None:
        outcome.same("recomputed", train(outcome.base, per_device_train_batch_size=4))

    def test_a_step_of_one_example(self, outcome: Outcome) -> None:
        outcome.same("few", train(outcome.base, per_device_train_batch_size=1))

    @pytest.mark.parametrize("name", PARTS)
    def test_what_is_trained_may_be_a_part(self, name: str, outcome: Outcome) -> None:
        if outcome.engine == "shards":
            assert not (outcome.folder / f"{name}.safetensors").exists()  # refused, see below
        else:
            outcome.same(name, train(outcome.base, **PARTS[name]))

    @pytest.mark.parametrize("name", METHODS)
    def test_real_methods(self, name: str, outcome: Outcome) -> None:
        if name in SPREAD or outcome.engine != "shards":
            outcome.same(name.replace("/", "-"), by_method(name, outcome.base), least=0.01)

    def test_a_checkpoint_of_one_is_taken_up_by_two(self, outcome: Outcome) -> None:
        outcome.same("resumed", train(outcome.base, **STEPS))
        assert outcome.every[0]["taken up"] == ["  resuming at step 4 of 5"]

    def test_a_checkpoint_of_two_is_taken_up_by_one(self, outcome: Outcome) -> None:
        notes, whole = Notes(), Notes()
        wanted = train(outcome.base, run=Run(log=whole), **STEPS)
        resumed = train(outcome.base, run=Run(work=outcome.folder / "by_two", resume=True, log=notes), **STEPS)
        assert notes.said == ["  resuming at step 4 of 5"]
        torch.testing.assert_close(flat(resumed), flat(wanted), rtol=0, atol=1e-5)
        assert notes.series("eval_loss") == pytest.approx(whole.series("eval_loss"), rel=1e-5)

    def test_what_passes_between_them(self, outcome: Outcome) -> None:
        first, second = outcome.every
        assert {**first, "not finite": ""} == {**second, "not finite": ""}, "which step it was, one of them knows"
        assert first["kinds"] == ["DTensor" if outcome.engine == "shards" else "Parameter"]
        assert first["held"] == [2.0 if outcome.engine == "copies" else 1.0], "two moments, whole or half of them"
        assert first["once"] == 0
        assert first["gathered"] == [0, 1]
        assert first["totals"] == {"a": 1.0, "b": 3.0}
        assert first["refused"] == "Mend it."

    def test_a_loss_that_one_of_them_cannot_go_on_from_stops_both(self, outcome: Outcome) -> None:
        assert all("loss or gradient is not finite" in told["not finite"] for told in outcome.every)

    def test_a_signal_to_one_of_them_stops_both_at_a_checkpoint(self, outcome: Outcome) -> None:
        assert [told["stopped"] for told in outcome.every] == [[1], [1]]

    def test_what_cannot_be_spread_is_refused(self, outcome: Outcome) -> None:
        found = outcome.every[0]["not spread"]
        wanted = {
            "copies": [],
            "shards": ["keeps something that goes", *["asks for shards"] * 2, "asks for activation checkpointing"],
            "zero": [
                "asks for stage 3",
                "asks for stage 0",
                "asks DeepSpeed for zero_optimization.offload_optimizer",
                "needs every weight in every pass",
                "trains in float32",
            ],
        }[outcome.engine]
        assert len(found) == len(wanted)
        assert all(fact.startswith(start) for fact, start in zip(found, wanted, strict=True))

    def test_the_first_stage_of_zero(self, outcome: Outcome) -> None:
        if outcome.engine == "zero":
            outcome.same("first stage", train(outcome.base, per_device_train_batch_size=4))

    def test_the_reference_is_that_of_one(self, outcome: Outcome) -> None:
        wanted = outcome.base.tree_logprobs(TREES, Notes())
        for found, tokens in zip(outcome.every[0]["reference"], wanted, strict=True):
            torch.testing.assert_close(torch.tensor(found), tokens, rtol=0, atol=1e-5)
