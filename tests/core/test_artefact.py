"""A policy as a folder, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import make_local

import truing
from truing.core.artefact import WRAPPED, save_policy
from truing.core.errors import InputError
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
