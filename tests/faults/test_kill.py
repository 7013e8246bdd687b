"""``kill -9`` at any moment, again and again: what is there is whole, and the end is that of a run left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nursery import ROOT, Nursery, Undisturbed
from soundness import check_sound, results, unfinished

AT_A_FILE = """
import os, signal, sys
left = [{number}]
def watch(event, given):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod") and {out!r} in str(given[0]):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""
"""Python source: the process is killed when it is about to do its so-many-th thing with a file of the run."""
AT_A_STEP = """
import os, signal
from truing.engine.loop import Loop
step, left = Loop.one_step, [{number}]
def one_step(self):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    step(self)
Loop.one_step = one_step
"""
"""Python source: the process trains for so many steps, if the clock has not killed it before."""


def test_killed_twenty_times_in_a_row(nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path) -> None:
    """By the clock and between operations on files in turn; every process goes on where the last was killed.

    None trains for more than eight steps, so that the last is not done before the twentieth is killed.
    """
    out, source = tmp_path / "out", random.Random(20)
    words = ("run", home / "long.yaml", "--out", out, "--resume")
    whole = undisturbed.seconds("long")
    for kill in range(20):
        if kill % 2:
            before = AT_A_FILE.format(number=source.randint(1, 60), out=str(out))
            ended = nursery.run(*words, cache=tmp_path / "cache", before=before)
        else:
            before, seconds = AT_A_STEP.format(number=source.randint(1, 8)), source.uniform(0, whole)
            ended = nursery.run(*words, cache=tmp_path / "cache", before=before, seconds=seconds)
        assert ended.code == -signal.SIGKILL, (kill, ended)
        check_sound(out)
    ended = nursery.run(*words, cache=tmp_path / "cache")
    assert ended.code == 0, ended.said
    assert "resuming at step" in ended.said
    assert results(out) == results(undisturbed("long"))
    assert unfinished(out) == []


def file_operations(nursery: Nursery, home: Path, folder: Path) -> int:
    """How many a whole run does."""
    out = folder / "counted"
    before = AT_A_FILE.format(number=-1, out=str(out)) + "sys.left = left\n"
    after = "import sys\nprint('operations:', -1 - sys.left[0])"
    words = ("run", home / "recipe.yaml", "--out", out, "--resume")
    ended = nursery.run(*words, cache=folder / "cache", before=before, after=after)
    assert ended.code == 0, ended.said
    return int(ended.said.rpartition("operations:")[2])


def kill_at(nursery: Nursery, undisturbed: Undisturbed, home: Path, folder: Path, number: int) -> None:
    """Killed at one operation of a run, then taken up."""
    out = folder / str(number)
    words = ("run", home / "recipe.yaml", "--out", out, "--resume")
    before = AT_A_FILE.format(number=number, out=str(out))
    assert nursery.run(*words, cache=folder / "cache", before=before).code == -signal.SIGKILL
    check_sound(out)
    ended = nursery.run(*words, cache=folder / "cache")
    assert ended.code == 0, (number, ended.said)
    assert results(out) == results(undisturbed("recipe")), number
    assert unfinished(out) == []


def test_killed_between_operations_on_files(
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """Two during the training, three after it: the artefact, its card, measures, samples, the report."""
    count = file_operations(nursery, home, tmp_path)
    source = random.Random(8)
    for number in (*source.sample(range(1, count - 60), 2), *source.sample(range(count - 60, count + 1), 3)):
        kill_at(nursery, undisturbed, home, tmp_path, number)


@pytest.mark.slow
def test_killed_at_every_operation_on_a_file(
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    for number in range(1, file_operations(nursery, home, tmp_path) + 1):
        kill_at(nursery, undisturbed, home, tmp_path, number)


@pytest.mark.slow
def test_twenty_real_processes(undisturbed: Undisturbed, home: Path, tmp_path: Path) -> None:
    """Each with its seconds of imports, killed by the clock."""
    source = random.Random(9)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRUING_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    words = ["run", str(home / "long.yaml"), "--out", str(tmp_path / "out"), "--resume"]

    def process(seconds: float, before: str = "") -> int:
        program = [sys.executable, "-c", f"{before}\nimport sys\nfrom truing.cli import main\nsys.exit(main())", *words]
        with subprocess.Popen(
            program, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as running:
            try:
                return running.wait(seconds)
            except subprocess.TimeoutExpired:
                running.kill()
                return running.wait()

    for _ in range(20):
        code = process(source.uniform(0, 12), AT_A_STEP.format(number=source.randint(2, 8)))
        assert code == -signal.SIGKILL
        check_sound(tmp_path / "out")
    assert process(200) == 0
    assert results(tmp_path / "out") == results(undisturbed("long"))
