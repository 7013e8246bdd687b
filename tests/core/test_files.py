"""What is written is whole or not there."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from truing.core.errors import InputError, RunError
from truing.core.files import UNFINISHED, sweep, write_atomically, write_folder, write_text


def test_a_folder_is_whole_when_it_is_there(tmp_path: Path) -> None:
    target, seen = tmp_path / "deep" / "down" / "arm", []

    def fill(folder: Path) -> None:
        (folder / "a").write_text("1", encoding="utf-8")
        seen.append((target.exists(), folder.parent.parent == target.parent))  # one disk: the rename is one step

    write_folder(target, fill)
    assert seen == [(False, True)]
    assert [file.name for file in target.iterdir()] == ["a"]
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError("no space"), RunError), (ValueError("x"), ValueError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failing_write_leaves_nothing(error: BaseException, raised: type[BaseException], tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights").write_text("half", encoding="utf-8")
        (folder / "sub").mkdir()
        raise error

    with pytest.raises(raised):
        write_folder(tmp_path / "arm", fill)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("filled", [True, False])
def test_what_exists_is_not_overwritten(filled: bool, tmp_path: Path) -> None:
    target = tmp_path / "arm"
    target.mkdir()
    if filled:
        (target / "mine").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        write_folder(target, lambda folder: None)
    assert len(list(target.iterdir())) == filled


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        write_folder(tmp_path / "arm", lambda folder: None)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match="cannot be written"):
        write_folder(tmp_path / "file" / "arm", lambda folder: None)


def test_a_small_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "run.json"
    write_text(path, "first\n")
    monkeypatch.setattr(os, "replace", lambda *given: (_ for _ in ()).throw(OSError("pulled out")))
    with pytest.raises(RunError, match=r"run\.json: cannot be written \(pulled out\)"):
        write_text(path, "second, much longer\n")
    assert path.read_text(encoding="utf-8") == "first\n"
    assert list(path.parent.iterdir()) == [path]


def test_half_of_a_surrogate_pair_is_written_as_json_escapes_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a.jsonl", json.dumps({"text": "é\ud83d"}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8")) == {"text": "é\ud83d"}


def _write_often(path: Path, letter: str) -> None:
    for _ in range(100):
        write_atomically(path, lambda file: file.write_text(letter * 20000, encoding="utf-8"))


def test_two_processes_never_leave_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "below" / "entry"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            assert len(text) == 20000
            assert len(set(text)) == 1
            seen.add(text[0])
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert list(path.parent.iterdir()) == [path]
    assert seen


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    path.write_text("old", encoding="utf-8")

    def fail(file: Path) -> None:
        file.write_text("half", encoding="utf-8")
        raise OSError("no space left")

    with pytest.raises(RunError, match=r"entry: cannot be written \(no space left\)\. .*go on with --resume"):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "arms" / "a"):
        (folder / f"{UNFINISHED}x-1").mkdir(parents=True)
        (folder / f"{UNFINISHED}x-1" / "weights").write_text("half", encoding="utf-8")
        (folder / ".mine").write_text("keep", encoding="utf-8")
    sweep(tmp_path, older=60)
    assert len(list(tmp_path.rglob(f"{UNFINISHED}*"))) == 2, "it may be another process's work in progress"
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".mine", ".mine", "a", "arms"]
    sweep(tmp_path / "nowhere")
