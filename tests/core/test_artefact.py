"""What is written is whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import make_local

import truing
from truing.core.artefact import WRAPPED, save_policy, write_folder, write_text
from truing.core.errors import InputError, RunError
from truing.core.evidence import Evidence, Judge
from truing.core.method import build
from truing.core.policy import Chat, Sampling, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.methods._saved import make_judge
from truing.models.local import Local

JUDGE = """
def long(chats, replies):
    return [len(reply) for reply in replies]
"""


def test_a_folder_is_whole_when_it_is_there(tmp_path: Path) -> None:
    target, seen = tmp_path / "deep" / "down" / "arm", []

    def fill(folder: Path) -> None:
        (folder / "a").write_text("1", encoding="utf-8")
        seen.append((target.exists(), folder.parent == target.parent))  # one disk: the rename is one step

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
    with pytest.raises(OSError, match="pulled out"):
        write_text(path, "second, much longer\n")
    assert path.read_text(encoding="utf-8") == "first\n"
    assert list(path.parent.iterdir()) == [path]


class TestWrapped:
    """A method around a policy: by its name and settings, and the policy itself or where it came from."""

    HOW = Sampling(max_new_tokens=6)

    def test_a_judge_and_a_wrapper_in_a_wrapper_come_back(self, tiny_policy: Local, tmp_path: Path) -> None:
        (tmp_path / "judge.py").write_text(JUDGE, encoding="utf-8")
        judge = make_judge(f"python:{tmp_path}/judge.py:long")
        inner = build("prompt/exemplars", shots=1)(tiny_policy, Evidence(), Run())
        outer = build("rerank/best_of_n", n=3)(inner, Evidence(judge=judge), Run())
        save_policy(outer, tmp_path / "arm")
        loaded = truing.load(str(tmp_path / "arm"))
        assert loaded.fingerprint == outer.fingerprint
        asked = [user("who"), user("why")]
        wanted = outer.sample(asked, n=2, sampling=self.HOW, rng=Rng(0))
        assert loaded.sample(asked, n=2, sampling=self.HOW, rng=Rng(0)) == wanted
        save_policy(loaded, tmp_path / "again")  # and can be saved again
        assert truing.load(str(tmp_path / "again")).sample(asked, n=2, sampling=self.HOW, rng=Rng(0)) == wanted

    def test_a_base_that_has_a_name_is_named_not_copied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save_policy(make_local(), tmp_path / "model")
        monkeypatch.chdir(tmp_path)
        wrapped = build("prompt/exemplars")(truing.load("model"), Evidence(), Run())
        save_policy(wrapped, tmp_path / "arm")
        assert [file.name for file in (tmp_path / "arm").iterdir()] == [WRAPPED]
        monkeypatch.chdir("/")  # "model" is not there from here
        assert truing.load(str(tmp_path / "arm")).fingerprint == wrapped.fingerprint

    def test_another_model_under_that_name_is_refused(self, tmp_path: Path) -> None:
        save_policy(make_local(), tmp_path / "model")
        save_policy(
            build("prompt/exemplars")(truing.load(str(tmp_path / "model")), Evidence(), Run()), tmp_path / "arm"
        )
        (tmp_path / "model").rename(tmp_path / "old")
        save_policy(make_local(seed=1), tmp_path / "model")
        with pytest.raises(InputError, match="was saved around another"):
            truing.load(str(tmp_path / "arm"))

    @pytest.mark.parametrize(
        "text", ["{", "[]", "{}", '{"method": "prompt/exemplars", "settings": {"shots": 99}, "base": "x"}']
    )
    def test_a_damaged_file_is_told(self, text: str, tmp_path: Path) -> None:
        (tmp_path / WRAPPED).write_text(text, encoding="utf-8")
        with pytest.raises(InputError):
            truing.load(str(tmp_path))

    def test_settings_are_plain(self, tiny_policy: Local, tmp_path: Path) -> None:
        save_policy(build("prompt/exemplars", shots=2)(tiny_policy, Evidence(), Run()), tmp_path / "arm")
        row = json.loads((tmp_path / "arm" / WRAPPED).read_text(encoding="utf-8"))
        assert row["method"] == "prompt/exemplars"
        assert row["settings"] == {"shots": 2, "preamble": True}
        assert row["base"] == "base"

    def test_a_judge_that_nothing_can_name_is_not_saved(self, tiny_policy: Local, tmp_path: Path) -> None:
        """It would be lost without a word, and a best of three without a judge is a best of one."""

        class Nameless(Judge):
            name = "mine"

            def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
                return [0.0] * len(replies)

        policy = build("rerank/best_of_n", n=3)(tiny_policy, Evidence(judge=Nameless()), Run())
        with pytest.raises(InputError, match="nothing says how to make its judge 'mine' again"):
            save_policy(policy, tmp_path / "arm")
        assert list(tmp_path.iterdir()) == []
