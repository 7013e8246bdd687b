"""Ctrl-C and SIGTERM: the step is finished, a checkpoint is saved, and the reader is told how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from fitting import train
from nursery import Nursery, Undisturbed
from soundness import check_sound, results, unfinished
from tiny import Notes, same_weights

from truing.core.run import Run
from truing.models.local import Local

IN_A_STEP = """
import signal
from truing.engine.loop import Loop
members = Loop.members
def asked(self, step):
    if step == 5:
        for _ in range({times}):
            signal.raise_signal({number})
    return members(self, step)
Loop.members = asked
"""
"""Python source: so many signals come at the beginning of the sixth step."""
ELSEWHERE = """
import signal
from {module} import {kind}
inner = {kind}.{name}
def interrupted(self, *given, **options):
    done = inner(self, *given, **options)
    signal.raise_signal({number})
    return done
{kind}.{name} = interrupted
"""
"""Python source: a signal comes at the end of some other call."""
BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@BOTH
def test_in_the_middle_of_a_step(
    number: signal.Signals, code: int, nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """The recipe would save no checkpoint for itself."""
    out = tmp_path / "out"
    words = ("run", home / "seldom.yaml", "--out", out)
    ended = nursery.run(*words, cache=tmp_path / "c", before=IN_A_STEP.format(times=1, number=int(number)))
    assert ended.code == code, ended.said
    assert "stopping after this step, with a checkpoint; once more stops at once" in ended.said
    assert ended.said.rstrip().endswith(f"Stopped. To go on from here: truing run {words[1]} --out {out} --resume")
    assert "Traceback" not in ended.said
    check_sound(out)
    assert unfinished(out) == []
    ended = nursery.run(*words, "--resume", cache=tmp_path / "c")
    assert ended.code == 0, ended.said
    assert "resuming at step 6 of 12" in ended.said
    assert results(out) == results(undisturbed("seldom"))


def test_a_second_one_does_not_wait(nursery: Nursery, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = IN_A_STEP.format(times=2, number=int(signal.SIGINT))
    ended = nursery.run("run", home / "seldom.yaml", "--out", out, cache=tmp_path / "c", before=before)
    assert ended.code == 130, ended.said
    assert list(out.rglob("state.safetensors")) == []


@BOTH
@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [("truing.engine.draw", "Sampler", "__call__"), ("truing.models.local", "Local", "save")],
    ids=["sampling", "saving"],
)
def test_elsewhere(
    module: str, kind: str, name: str, number: signal.Signals, code: int,
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """While it draws, or while an artefact is under its temporary name."""
    out = tmp_path / "out"
    words = ("run", home / "recipe.yaml", "--out", out)
    before = ELSEWHERE.format(module=module, kind=kind, name=name, number=int(number))
    ended = nursery.run(*words, cache=tmp_path / "c", before=before)
    assert ended.code == code, ended.said
    assert f"To go on from here: truing run {words[1]} --out {out} --resume" in ended.said
    check_sound(out)
    assert unfinished(tmp_path) == []
    assert not (out / "arms" / "dpo").exists()
    ended = nursery.run(*words, "--resume", cache=tmp_path / "c")
    assert ended.code == 0, ended.said
    assert ("resuming at step 11 of 12" in ended.said) == (name == "save")  # the training was not lost
    assert results(out) == results(undisturbed("recipe"))


class TestLibrary:
    """``fit`` in somebody's own program, whose handlers are its own."""

    def stopping(self, number: signal.Signals, at: int) -> Notes:
        class Stopping(Notes):
            def metrics(self, row: dict[str, float]) -> None:
                super().metrics(row)
                if row["step"] == at:
                    signal.raise_signal(number)

        return Stopping()

    def test_handlers_are_put_back_and_called(self, tiny_policy: Local, tmp_path: Path) -> None:
        seen: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
        mine, other = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        try:
            notes = self.stopping(signal.SIGTERM, 2)
            done = train(tiny_policy, run=Run(work=tmp_path, log=notes))
            assert seen == [signal.SIGTERM]
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (mine, other)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert same_weights(done, train(tiny_policy))  # a handler that stops nothing stops nothing
        assert (tmp_path / "checkpoint" / "state.safetensors").exists()

    @pytest.mark.parametrize("at", [2, 5])
    def test_an_interrupt_is_delivered_after_the_step_also_after_the_last(
        self, at: int, tiny_policy: Local, tmp_path: Path
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=self.stopping(signal.SIGINT, at)), save_steps=0)
        notes = Notes()
        done = train(tiny_policy, run=Run(work=tmp_path, resume=True, log=notes))
        assert notes.said == [f"  resuming at step {at} of 5"]
        assert same_weights(done, train(tiny_policy))

    def test_what_is_ignored_stays_ignored(self, tiny_policy: Local, tmp_path: Path) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for what a shell runs in the background
        try:
            train(tiny_policy, run=Run(work=tmp_path, log=self.stopping(signal.SIGINT, 2)))
        finally:
            signal.signal(signal.SIGINT, before)

    def test_without_a_folder_nothing_is_held_back(self, tiny_policy: Local) -> None:
        notes = self.stopping(signal.SIGINT, 2)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(log=notes))
        assert len(notes.rows) == 2

    def test_another_thread_trains_without_signals(self, tiny_policy: Local, tmp_path: Path) -> None:
        done: list[Local] = []
        thread = threading.Thread(target=lambda: done.append(train(tiny_policy, run=Run(work=tmp_path))))
        thread.start()
        thread.join()
        assert same_weights(done[0], train(tiny_policy))
