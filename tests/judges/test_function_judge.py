"""A user's function is found where it was said to be, and what it gives back is checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from truing.core.errors import InputError, RunError
from truing.core.policy import Chat, user
from truing.judges.function import FunctionJudge

CHATS = [user("a"), user("b")]
REPLIES = ["x", "yyy"]


def lengths(chats: Sequence[Chat], replies: Sequence[str]) -> list[int]:
    return [len(reply) for reply in replies]


def test_a_function_scores() -> None:
    judge = FunctionJudge(lengths)
    assert judge.score(CHATS, REPLIES) == [1.0, 3.0]
    assert judge.compare(CHATS, REPLIES, ["xx", "y"]) == [0.0, 1.0]
    assert judge.name == "python:lengths"
    assert FunctionJudge(lambda chats, replies: np.array([1, 2])).score(CHATS, REPLIES) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("function", "fact"),
    [
        (lambda chats, replies: [1.0], "1 scores for 2 replies"),
        (lambda chats, replies: [1.0, float("nan")], "score 1 is nan, for the reply 'yyy'"),
        (lambda chats, replies: [float("-inf"), 1.0], "score 0 is -inf"),
        (lambda chats, replies: ["good", "bad"], "ValueError"),
        (lambda chats, replies: None, "TypeError"),
        (lambda chats, replies: [1 / 0], "ZeroDivisionError"),
    ],
)
def test_what_comes_back_is_checked(function: object, fact: str) -> None:
    with pytest.raises(RunError, match=fact):
        FunctionJudge(function, name="mine").score(CHATS, REPLIES)


def test_chats_and_replies_must_match() -> None:
    with pytest.raises(InputError, match="2 chats but 1 replies"):
        FunctionJudge(lengths).score(CHATS, ["x"])


def test_a_function_of_a_file_is_found_by_path(tmp_path: Path) -> None:
    file = tmp_path / "json.py"  # a name that is taken must not stand in for the module of that name
    file.write_text("class Box:\n    @staticmethod\n    def one(chats, replies):\n        return [1] * len(replies)\n")
    judge = FunctionJudge(f"{file}:Box.one")
    assert judge.score(CHATS, REPLIES) == [1.0, 1.0]
    assert sys.modules["json"].__file__ != str(file)


def test_a_function_of_a_module_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_a_test.py").write_text("def score(chats, replies):\n    return map(len, replies)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert FunctionJudge("mine_of_a_test:score").score(CHATS, REPLIES) == [1.0, 3.0]


def test_what_is_not_there_is_told_with_its_mend(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def score(chats, replies):\n    return []\nWORD = 'x'\n")
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for place, fact in {
        "score": "names no function",
        "no_such_module_at_all:score": "cannot be imported",
        f"{tmp_path / 'none.py'}:score": "no such file",
        f"{file}:scores": "Did you mean 'score'?",
        f"{file}:WORD": "cannot be called",
        f"{broken}:score": "raised ZeroDivisionError",
    }.items():
        with pytest.raises(InputError) as caught:
            FunctionJudge(place)
        assert fact in str(caught.value)
