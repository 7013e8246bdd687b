"""What others did to the files of a run, what a loss that is no number leaves, and two runs with one cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from nursery import Nursery, Undisturbed
from soundness import check_sound, results, unfinished

from truing.core.errors import InputError
from truing.models.local import Local, load_local

NAN = """
from truing.engine.loop import Loop
from truing.methods.preference.dpo import DPO
at, one_step, loss = [], Loop.one_step, DPO.loss
def stepping(self):
    at[:] = [self.step]
    one_step(self)
def broken(self, pairs):
    return loss(self, pairs) * (float("nan") if at == [4] else 1.0)
Loop.one_step, DPO.loss = stepping, broken
"""
TOO_FAST = """
from truing.engine import loop
rate = loop.learning_rate
loop.learning_rate = lambda settings, step, total: float("inf") if step == {step} else rate(settings, step, total)
"""
MEET = """
import os, time
from truing.models.local import Local
inner = Local.tree_logprobs
def together(self, *given):
    open({folder!r} + f"/{{os.getpid()}}", "w").close()
    while len(os.listdir({folder!r})) < 2:
        time.sleep(0.001)
    return inner(self, *given)
Local.tree_logprobs = together
"""
"""Python source: who computes log-probabilities waits until another process is about to."""


def test_a_loss_that_is_no_number(nursery: Nursery, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = nursery.run("run", home / "recipe.yaml", "--out", out, cache=tmp_path / "c", before=NAN)
    assert ended.code == 1, ended.said
    assert "The run failed: step 5: " in ended.said
    assert "not finite" in ended.said
    assert not (out / "arms" / "dpo").exists()
    check_sound(out)  # the checkpoint is of step 4: every tensor of it is finite
    ended = nursery.run("run", home / "recipe.yaml", "--out", out, "--resume", cache=tmp_path / "c")
    assert (ended.code, "resuming at step 4 of 12" in ended.said) == (0, True), ended.said


@pytest.mark.parametrize("step", [3, 11], ids=["before a checkpoint", "at the end"])
def test_an_update_that_is_no_number(step: int, nursery: Nursery, home: Path, tmp_path: Path) -> None:
    """The loss before it is sound, and after the last there is none."""
    out = tmp_path / "out"
    before = TOO_FAST.format(step=step)
    ended = nursery.run("run", home / "recipe.yaml", "--out", out, cache=tmp_path / "c", before=before)
    assert ended.code == 1, ended.said
    assert f"The run failed: step {step + 1}: " in ended.said
    assert "not finite" in ended.said
    assert not (out / "arms" / "dpo").exists()
    check_sound(out)


def interrupted(nursery: Nursery, home: Path, tmp_path: Path) -> tuple[tuple[object, ...], Path]:
    """A run that lost its power after step 4; what takes it up, and its checkpoint."""
    words = ("run", home / "recipe.yaml", "--out", tmp_path / "out", "--resume")
    assert nursery.run(*words, cache=tmp_path / "cache", before=NAN).code == 1
    (state,) = (tmp_path / "out").rglob("state.safetensors")
    return words, state


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_checkpoint(
    damage: str, nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    words, state = interrupted(nursery, home, tmp_path)
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"\x07" * 900)
    ended = nursery.run(*words, cache=tmp_path / "cache")
    assert ended.code == 1
    assert f"The run failed: {state}: the checkpoint cannot be read" in ended.said
    assert "Delete it to train this arm from its start." in ended.said
    state.unlink()
    ended = nursery.run(*words, cache=tmp_path / "cache")
    assert ended.code == 0, ended.said
    assert results(tmp_path / "out") == results(undisturbed("recipe"))


def test_other_pairs_are_not_trained_on_from_that_checkpoint(nursery: Nursery, home: Path, tmp_path: Path) -> None:
    words, state = interrupted(nursery, home, tmp_path)
    state.rename(tmp_path / "kept")
    other = (home / "recipe.yaml").read_text(encoding="utf-8").replace("learning_rate: 1.0e-3", "learning_rate: 2.0e-3")
    (tmp_path / "other.yaml").write_text(other, encoding="utf-8")
    ended = nursery.run("run", tmp_path / "other.yaml", "--out", tmp_path / "out", "--resume", cache=tmp_path / "cache")
    assert ended.code == 2
    told = " ".join(ended.said.split())
    assert "arms.dpo[0].preference/dpo.learning_rate was 0.001 and is 0.002" in told
    # Carried into a run of its own, it is known for what it is.
    words = ("run", tmp_path / "other.yaml", "--out", tmp_path / "new", "--resume")
    assert nursery.run(*words, cache=tmp_path / "cache", before=NAN).code == 1
    (target,) = (tmp_path / "new").rglob("state.safetensors")
    (tmp_path / "kept").rename(target)
    ended = nursery.run(*words, cache=tmp_path / "cache")
    assert ended.code == 2, ended.said
    told = " ".join(ended.said.split())
    assert "the checkpoint is of another training: settings.learning_rate was 0.001 and is 0.002" in told


def test_every_entry_of_the_cache_is_damaged(
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert nursery.run("run", home / "recipe.yaml", "--out", tmp_path / "first", cache=cache).code == 0
    entries = sorted(path for path in cache.rglob("*") if path.is_file())
    sound = {path: path.read_bytes() for path in entries}
    for number, path in enumerate(entries):
        path.write_bytes((b"", b"\xff" * 99, path.read_bytes()[:-7])[number % 3])
    ended = nursery.run("run", home / "recipe.yaml", "--out", tmp_path / "again", cache=cache)
    assert ended.code == 0, ended.said
    assert all(f"warning: the cache entry {path} is unreadable" in ended.said for path in entries)
    assert {path.parent.name for path in entries} == {"logprobs", "draws", "perplexity"}
    assert results(tmp_path / "again") == results(undisturbed("recipe"))
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == sound


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_weights_that_are_damaged(damage: str, tiny_policy: Local, tmp_path: Path) -> None:
    """Of a model that was given: bad input, not an accident of the run."""
    tiny_policy.save(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "noise": b"\x07" * 500, "empty": b""}[damage])
    with pytest.raises(InputError, match=r"^model '.*': Error while .* A file of it is damaged: fetch"):
        load_local(str(tmp_path))


def test_two_runs_with_one_cache_at_once(
    nursery: Nursery, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """Both begin with nothing, and compute and keep the same entries at the same time."""
    (tmp_path / "meet").mkdir()
    outs, cache = [tmp_path / "a", tmp_path / "b"], tmp_path / "cache"
    commands = [("run", home / "recipe.yaml", "--out", out) for out in outs]
    ended = nursery.together(commands, cache=cache, before=MEET.format(folder=str(tmp_path / "meet")))
    assert [one.code for one in ended] == [0, 0], ended
    assert not any("warning: the cache" in one.said or "cannot be kept" in one.said for one in ended)
    assert results(outs[0]) == results(outs[1]) == results(undisturbed("recipe"))
    assert unfinished(cache) == []
    third = nursery.run("run", home / "recipe.yaml", "--out", tmp_path / "c", cache=cache)
    assert "reference log-probabilities: from the cache" in third.said
    assert results(tmp_path / "c") == results(outs[0])
