"""Stopped in the middle and taken up again: the same bits, or a message that says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import TREES, close, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import Notes, make_local, same_weights

from truing.core.errors import InputError, RunError
from truing.core.run import Run
from truing.models.local import Local


class TestResume:
    def test_an_interrupted_run_ends_with_the_same_bits(self, tiny_policy: Local, tmp_path: Path) -> None:
        settings = {"max_steps": 9, "per_device_train_batch_size": 4, "save_steps": 2, "logging_steps": 3}
        whole, first, second = Notes(), Notes(stop_at=5), Notes()
        wanted = train(tiny_policy, run=Run(log=whole), **settings)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=first), **settings)
        resumed = train(tiny_policy, run=Run(work=tmp_path, resume=True, log=second), **settings)
        assert second.said == ["  resuming at step 4 of 9"]
        assert same_weights(resumed, wanted)
        machine = {"tokens_per_second", "peak_memory"}
        lasting = [[{k: v for k, v in row.items() if k not in machine} for row in log.rows] for log in (whole, second)]
        assert lasting[1] == lasting[0][1:]
        assert [file.name for file in (tmp_path / "checkpoint").iterdir()] == ["state.safetensors"]
        # Until the artefact is safe: a disk that is full by then costs the steps since the last checkpoint only.
        again = Notes()
        assert same_weights(train(tiny_policy, run=Run(work=tmp_path, resume=True, log=again), **settings), wanted)
        assert again.said[0] == "  resuming at step 8 of 9"

    def test_without_resume_a_checkpoint_is_not_taken_up(self, tiny_policy: Local, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=Notes(stop_at=3)), save_steps=1)
        assert same_weights(train(tiny_policy, run=Run(work=tmp_path)), train(tiny_policy))

    def test_kill_9_then_resume(self, tiny_policy: Local, tmp_path: Path) -> None:
        """A real process, killed while it saves at every step, and taken up by this one."""
        script = (
            "import time; from pathlib import Path; from tiny import *; from fitting import *\n"
            "class Slow(Notes):\n"
            "    def progress(self, stage, done, total, note=''):\n"
            "        print(f'step {done:.0f}', flush=True); time.sleep(0.03)\n"
            f"train(make_local(), run=Run(work=Path({str(tmp_path)!r}), log=Slow()), save_steps=1, max_steps=30)\n"
        )
        here = Path(__file__).parent
        paths = os.pathsep.join([str(here), str(here.parent), str(here.parent.parent)])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert child.stdout is not None
        assert child.stderr is not None
        with child.stdout, child.stderr:
            seen = next((line for line in child.stdout if line.startswith("step 7")), None)
            child.send_signal(signal.SIGKILL)
            assert seen is not None, child.stderr.read()
        assert child.wait() == -signal.SIGKILL
        notes = Notes()
        resumed = train(tiny_policy, run=Run(work=tmp_path, resume=True, log=notes), save_steps=1, max_steps=30)
        assert 7 <= int(notes.said[0].split()[3]) < 30
        assert same_weights(resumed, train(tiny_policy, max_steps=30))
        assert [file.name for file in (tmp_path / "checkpoint").iterdir()] == ["state.safetensors"]  # no half of one

    @pytest.mark.parametrize("damage", ["noise", "cut", "shapes", "empty"])
    def test_a_damaged_checkpoint_says_what_to_do(self, damage: str, tiny_policy: Local, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=Notes(stop_at=2)), save_steps=1)
        file = tmp_path / "checkpoint" / "state.safetensors"
        whole = file.read_bytes()
        if damage == "shapes":
            with safe_open(file, framework="pt") as opened:
                said = opened.metadata()
            save_file({name: torch.stack([tensor, tensor]) for name, tensor in load_file(file).items()}, file, said)
        else:
            file.write_bytes({"noise": b"\x07" * 500, "cut": whole[: len(whole) // 2], "empty": b""}[damage])
        with pytest.raises(RunError, match=r"state\.safetensors: the checkpoint cannot be read .* Delete it"):
            train(tiny_policy, run=Run(work=tmp_path, resume=True))
        assert file.exists()

    @pytest.mark.parametrize(
        ("other", "told"),
        [
            ({"learning_rate": 1e-3}, r"settings\.learning_rate was 0\.002 and is 0\.001"),
            ({"max_steps": 6}, r"settings\.max_steps was 5 and is 6; steps was 5 and is 6"),
            ({"per_device_train_batch_size": 2}, "examples a step was 8 and is 2"),
            ({"run": {"seed": 9}}, "seed was 0 and is 9"),
            ({"trees": TREES[1:]}, "data was '.*' and is '.*'"),
            ({"weights": [1.0] * len(TREES)}, "data was '.*' and is '.*'"),
            ({"base": {"seed": 1}}, "base was '.*' and is '.*'"),
            ({"base": {"hidden_size": 16}}, "base was '.*' and is '.*'"),
        ],
    )
    def test_a_checkpoint_of_another_training_is_not_taken_up(
        self, other: dict[str, Any], told: str, tiny_policy: Local, tmp_path: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=Notes(stop_at=2)), save_steps=1)
        changed = dict(other)
        base = make_local(**changed.pop("base")) if "base" in other else tiny_policy
        run = Run(work=tmp_path, resume=True, **changed.pop("run", {}))
        with pytest.raises(InputError, match=rf"the checkpoint is of another training: .*{told}.* or delete it"):
            train(base, run=run, **changed)

    def test_one_of_another_cut_is(self, tiny_policy: Local, tmp_path: Path) -> None:
        """After a pass that did not fit into memory, fewer tokens a pass go on where the others stopped."""
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=Notes(stop_at=2)), save_steps=1)
        cut = {"tokens_per_batch": 40, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
        notes = Notes()
        done = train(tiny_policy, run=Run(work=tmp_path, resume=True, log=notes), **cut)
        assert notes.said == ["  resuming at step 2 of 5"]
        close(done, train(tiny_policy), tiny_policy)
