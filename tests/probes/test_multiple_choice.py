"""multiple_choice against numbers made by hand, and the questions that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pools import Table
from test_probe_catalogue import Mute, Notes, settings

from truing.core.errors import InputError
from truing.core.run import Run
from truing.data.questions import Question, load_questions
from truing.probes.catalogue import measure, probe_faults
from truing.probes.multiple_choice import multiple_choice

# Sums and tokens: "long" is likelier a token, "short" in all.
TABLE = {"long": [-0.5] * 4, "short": [-1.0], "equal": [-0.5] * 4, "never": [-9.0]}
QUESTIONS = [
    Question("a?", ("long", "short"), 0),
    Question("b?", ("short", "long"), 0),
    Question("c?", ("long", "equal", "never"), 1),
    Question("d?", ("never", "short", "long"), 0),
]


def found(policy: Table, base: Table | None = None, questions: list[Question] = QUESTIONS) -> dict[str, object]:
    return {each.probe: each for each in multiple_choice(policy, questions, base=base, run=Run())}


def test_points_by_the_token_and_in_all() -> None:
    """By the token a, half of c; in all b, none of c (both choices -2 against never -9: half as well)."""
    told = found(Table(TABLE))
    assert told["multiple_choice"].value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert told["multiple_choice.plain"].value == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    assert {each.n for each in told.values()} == {4}
    assert "chance is 0.417" in told["multiple_choice"].note
    assert list(told) == ["multiple_choice", "multiple_choice.plain"]


def test_the_change_is_paired_and_its_interval_the_narrower() -> None:
    """Forty questions, half of which either knows; the arm has lost one in ten of all."""
    questions = [Question(f"{k}?", ("yes", "no"), int(k % 2)) for k in range(40)]

    class Knows(Table):
        def __init__(self, known: set[int], name: str) -> None:
            super().__init__({}, name=name)
            self.known = known

        def token_logprobs(self, chats, replies):
            import torch

            at = [int(chat[0].content[:-1]) for chat in chats]
            sure = [(reply == ("yes", "no")[k % 2]) == (k in self.known) for k, reply in zip(at, replies, strict=True)]
            return [torch.tensor([-1.0 if each else -2.0]) for each in sure]

    base, arm = Knows(set(range(20)), "base"), Knows(set(range(4, 20)), "arm")
    told = {each.probe: each for each in multiple_choice(arm, questions, base=base, run=Run())}
    change, own = told["multiple_choice.change"], told["multiple_choice"]
    assert (own.value, change.value, change.n) == (0.4, pytest.approx(-0.1), 40)
    assert change.high - change.low < 0.7 * (own.high - own.low)
    assert change.high <= 0
    assert "multiple_choice.change" not in {e.probe for e in multiple_choice(arm, questions, base=arm, run=Run())}


def test_where_all_is_right_the_interval_knows_how_few_were_asked() -> None:
    told = found(Table(TABLE), questions=[QUESTIONS[0]] * 20)
    assert (told["multiple_choice"].value, told["multiple_choice"].high) == (1.0, 1.0)
    assert told["multiple_choice"].low == pytest.approx(0.025 ** (1 / 20))


def test_the_shipped_questions_are_whole_and_the_right_places_even() -> None:
    given = load_questions()
    assert len(given.questions) == len({each.question for each in given.questions}) == 64
    assert all(len(each.choices) == 4 for each in given.questions)
    assert [[each.answer for each in given.questions].count(place) for place in range(4)] == [16] * 4


def test_rows_of_a_file(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "choices": ["x", "y"], "answer": "y"},
        {"question": "b?", "choices": ["x", "y"], "answer": 0},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = load_questions(str(file), "here")
    assert given.questions == (Question("a?", ("x", "y"), 1), Question("b?", ("x", "y"), 0))
    assert given.digest == load_questions(rows).digest != load_questions().digest


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"choices": ["x", "y"], "answer": 0}, "'question' is None"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "Give a list of two"),
        ({"question": "q", "choices": ["x", "x"], "answer": 0}, "is there twice"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "'answer' is 2"),
        ({"question": "q", "choices": ["x", "y"], "answer": True}, "'answer' is True"),
        ({"question": "q", "choices": ["x", "y"], "answer": "z"}, "or its place, 0 to 1"),
    ],
)
def test_rows_that_are_refused(row: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_questions([row], "here")
    with pytest.raises(InputError, match="here: has no rows"):
        load_questions([], "here")


def test_it_is_taken_by_name_of_an_arm_that_says_nothing() -> None:
    assert not probe_faults(["multiple_choice"], [], "probes")
    given = settings(questions=QUESTIONS, policy=Table(TABLE), base_policy=Table(TABLE, name="base"))
    arm = given.pop("base")
    told = measure(["multiple_choice"], arm, base=arm, **given)
    assert [each.probe for each in told] == ["multiple_choice", "multiple_choice.plain", "multiple_choice.change"]
    for changed, reason in (({"questions": ()}, "there are no questions"), ({"policy": Mute()}, "log-probabilities")):
        notes = Notes()
        given = settings(**{"questions": QUESTIONS, "run": Run(log=notes), **changed})
        arm = given.pop("base")
        assert measure(["multiple_choice"], arm, base=arm, **given) == []
        assert reason in notes.said[0]
    assert np.isfinite(told[0].value)
