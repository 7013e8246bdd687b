"""From what a recipe says to a judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from truing.core.errors import InputError
from truing.core.policy import Policy, user
from truing.data.promptset import load_promptset
from truing.judges.constraints import ConstraintJudge
from truing.judges.function import FunctionJudge
from truing.judges.remote import RemoteJudge
from truing.judges.resolve import resolve_judge

ROW = '{"id": "m1", "split": "train", "prompt": "Ask.", "constraints": [{"kind": "question"}]}\n'


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine.jsonl"
    file.write_text(ROW)
    return file


def test_the_shipped_constraints_cover_both_splits() -> None:
    judge = resolve_judge("constraints")
    assert isinstance(judge, ConstraintJudge)
    assert len(judge.constraints) == len(load_promptset().prompts)


def test_constraints_of_ones_own(mine: Path) -> None:
    chat = [user("Ask.")]
    assert resolve_judge("constraints", promptset=load_promptset(str(mine))).score(chat, ["why?"]) == [1.0]
    assert resolve_judge({"constraints": str(mine)}).score(chat, ["why."]) == [0.0]
    assert resolve_judge(f"constraints:{mine}").score(chat, ["why?"]) == [1.0]


def test_python(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from truing.core.evidence import Judge\n"
        "def score(chats, replies):\n    return map(len, replies)\n"
        "class Mine(Judge):\n    name = 'own'\n"
        "    def score(self, chats, replies):\n        return [2.0] * len(replies)\n"
        "made = Mine()\n"
    )
    function = resolve_judge(f"python:{file}:score")
    assert isinstance(function, FunctionJudge)
    assert function.score([user("a")], ["xyz"]) == [3.0]
    assert function.name == f"python:{file}:score"
    for place in ("Mine", "made"):
        assert resolve_judge({"python": f"{file}:{place}"}).name == "own"


def test_a_judge_is_itself() -> None:
    judge = FunctionJudge(lambda chats, replies: [0.0])
    assert resolve_judge(judge) is judge


def test_remote_gives_the_endpoint_its_settings_and_keeps_its_own() -> None:
    seen: list[Mapping[str, object]] = []

    class Nobody(Policy):
        def sample(self, chats, *, n, sampling, rng):
            raise NotImplementedError

        def save(self, folder: Path) -> None:
            raise NotImplementedError

        fingerprint = ""

    def make(settings: Mapping[str, object]) -> Policy:
        seen.append(settings)
        return Nobody()

    spec = {"remote": {"url": "http://host/v1", "model": "big", "criteria": "wit", "max_new_tokens": 500}}
    judge = resolve_judge(spec, remote=make)
    assert isinstance(judge, RemoteJudge)
    assert (judge.criteria, judge.sampling.max_new_tokens, judge.sampling.temperature) == ("wit", 500, 0.0)
    assert seen == [{"url": "http://host/v1", "model": "big"}]
    with pytest.raises(InputError, match="max_new_tokens = 0"):
        resolve_judge({"remote": {"max_new_tokens": 0}}, remote=make)


@pytest.mark.parametrize(
    ("spec", "fact"),
    [
        ("constrains", "Did you mean 'constraints'?"),
        ("python", "not complete"),
        ({"remote": "http://host"}, "not complete"),
        ({"remote": {}}, "no endpoint"),
        ({}, "names no judge"),
        ({"python": "a:b", "remote": {}}, "names no judge"),
        (7, "names no judge"),
        ({"constraints": "nothing"}, "no prompt set 'nothing'"),
    ],
)
def test_what_names_no_judge_is_told(spec: object, fact: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_judge(spec)
    assert fact in str(caught.value)
