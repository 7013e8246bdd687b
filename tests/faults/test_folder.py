"""The folder that a run is to write to, and what stands in it already: told before a model loads, exit code 2."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from truing.cli import main
from truing.core.recipe import parse
from truing.pipeline import study
from truing.pipeline.records import folder_faults

PAIRS = '{"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No."}\n'


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``truing run`` of a small recipe; a model that loads is a failure of the test."""

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(study, "load", loaded)
    (tmp_path / "pairs.jsonl").write_text(PAIRS, encoding="utf-8")

    def run(out: Path, *words: str, beta: str = "0.1") -> int:
        pairs = f"pairs={tmp_path / 'pairs.jsonl'}"
        given = ["run", "preference/dpo", "--model", "m", "--data", pairs, "--beta", beta]
        return main([*given, "--out", str(out), *words])

    return run


def began(folder: Path) -> Path:
    """A run that was begun, as its ``run.json`` tells it."""
    folder.mkdir()
    pairs = str(folder.parent / "pairs.jsonl")
    arms = {"dpo": {"steps": [{"preference/dpo": {"beta": 0.1}}]}}
    recipe = {"model": "m", "seed": 0, "data": {"pairs": pairs}, "arms": arms}
    facts = {"recipe": recipe, "status": "running", "model": {"fingerprint": "f"}, "data": {}}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_a_regular_file(asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        assert asked(out) == asked(out, "--resume") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "file is not a folder. Give another --out." in told
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_link_to_nowhere(asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert asked(tmp_path / "link" / "out") == 2
    assert "link is not a folder" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    for out in (tmp_path / "locked", tmp_path / "locked" / "new" / "out"):
        assert asked(out) == 2
        assert "locked cannot be written to. Give another --out, or make it writable." in capsys.readouterr().err


def test_what_the_system_says_of_writing_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for root, whom a disk that is mounted for reading stops."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    (fault,) = folder_faults(parse({"model": "m"}, name="r"), tmp_path / "new" / "out", resume=False)
    assert fault.fact == f"{tmp_path} cannot be written to"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    (out / "cat.jpg").write_text("x", encoding="utf-8")
    assert asked(out) == asked(out, "--resume") == 2
    assert "photos: holds cat.jpg and no run. Give a new or an empty folder as --out." in capsys.readouterr().err
    assert os.listdir(out) == ["cat.jpg"]


def test_an_empty_folder_and_what_a_killed_process_left_are_no_fault(tmp_path: Path) -> None:
    recipe = parse({"model": "m"}, name="r")
    (tmp_path / ".unfinished-run.json-x").mkdir()
    for out in (tmp_path, tmp_path / "new", tmp_path / "new" / "deep"):
        assert folder_faults(recipe, out, resume=False) == folder_faults(recipe, out, resume=True) == []


def test_a_run_that_is_there(asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = began(tmp_path / "out")
    assert asked(out) == 2
    assert "holds a run already. Add --resume to go on, or give another --out." in capsys.readouterr().err
    with pytest.raises(AssertionError, match="a model was loaded"):  # it is the same recipe: the run would go on
        study.run(parse(json.loads((out / "run.json").read_text("utf-8"))["recipe"], name="dpo"), out, resume=True)


def test_another_recipe_is_not_taken_up(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = began(tmp_path / "out")
    before = (out / "run.json").read_bytes()
    assert asked(out, "--resume", beta="0.2") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "holds a run of another recipe, model or data: " in told
    assert "arms.dpo.steps[0].preference/dpo.beta was 0.1 and is 0.2" in told
    assert "Give another --out, or the recipe that it was begun with." in told
    assert asked(out, "--resume", "--seed", "4") == 2
    assert "seed was 0 and is 4" in capsys.readouterr().err
    assert (out / "run.json").read_bytes() == before


def test_less_memory_a_step_is_no_other_recipe(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ran out of memory goes on in smaller passes, with what it has learnt."""
    out = began(tmp_path / "out")
    for words in (("--tokens_per_batch", "512"), ("--gradient_checkpointing", "true", "--logging_steps", "1")):
        assert asked(out, "--resume", *words) == 1
        assert "a model was loaded" in capsys.readouterr().err
    assert asked(out, "--resume", "--max_steps", "2") == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_a_record_that_cannot_be_read(
    text: str, asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = began(tmp_path / "out")
    (out / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert asked(out, "--resume") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "run.json: " in told
    assert "Restore it, or give another --out." in told
    shutil.rmtree(out)


def test_faults_of_the_folder_stand_beside_those_of_the_recipe(
    asked: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert asked(tmp_path / "file", "--probes", "lenth") == 2
    told = capsys.readouterr().err
    assert "is not a folder" in told
    assert "'length'" in told
