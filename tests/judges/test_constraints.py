"""Constraints are read strictly, and the judge counts how many are met."""

from __future__ import annotations

import copy
import pickle

import pytest

from truing.core.errors import InputError
from truing.core.policy import Message, user
from truing.judges.constraints import Constraint, ConstraintJudge, constraint_faults, parse_constraint

ROWS = {
    "Say hello.": [{"kind": "max_words", "count": 2}, {"kind": "lowercase"}],
    "Ask.": [{"kind": "question"}],
}


def test_the_score_is_the_share_met() -> None:
    judge = ConstraintJudge(ROWS)
    chats = [user("Say hello.")] * 4 + [user("Ask.")]
    replies = ["hello there", "Hello there", "Hello to all of you", "", "why?"]
    assert judge.score(chats, replies) == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert judge.satisfied(chats, replies) == [True, False, False, False, True]
    assert judge.met(chats[:2], replies[:2]) == [[True, True], [True, False]]
    assert judge.compare(chats[:1] * 3, ["hi", "Hi", ""], ["Hi", "hi", ""]) == [1.0, 0.0, 0.5]


def test_the_prompt_is_the_last_user_turn_of_whatever_chat_it_stands_in() -> None:
    chat = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes"), *user(" Ask. \n"))
    assert ConstraintJudge(ROWS).score([chat], ["why?"]) == [1.0]


def test_every_unknown_prompt_is_named_once() -> None:
    with pytest.raises(InputError) as caught:
        ConstraintJudge(ROWS).score([user("Sing."), user("Sing."), user("Ask."), user("Dance.")], ["a"] * 4)
    assert len(caught.value.faults) == 2
    assert "'Sing.'" in str(caught.value)
    assert "'Dance.'" in str(caught.value)


def test_chats_and_replies_must_match() -> None:
    with pytest.raises(InputError, match="1 chats but 2 replies"):
        ConstraintJudge(ROWS).score([user("Ask.")], ["a", "b"])


def test_building_tells_every_fault_at_once() -> None:
    with pytest.raises(InputError) as caught:
        ConstraintJudge({"One.": [{"kind": "max_word"}, {"kind": "lowercase"}], "Two.": [], "Three.": [{"kind": 3}]})
    assert len(caught.value.faults) == 3
    assert "prompt 'One.' constraints[0]: there is no constraint 'max_word'. Did you mean 'max_words'?" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({}, ["needs a kind"]),
        ({"kind": "lower_case"}, ["Did you mean 'lowercase'?"]),
        ({"kind": "max_words", "cuont": 3}, ["no setting 'cuont'. Did you mean 'count'?", "needs the setting 'count'"]),
        ({"kind": "max_words", "count": 0}, ["count = 0", "greater than or equal to 1"]),
        ({"kind": "max_words", "count": "many"}, ["count = 'many'"]),
        ({"kind": "lowercase", "count": 1}, ["It takes no settings"]),
        ({"kind": "keywords", "words": []}, ["words = []"]),
        ({"kind": "keywords", "words": [" "]}, ["words = [' ']"]),
        ({"kind": "word_range", "low": 9, "high": 3}, ["low = 9 is above high = 3"]),
        ({"kind": "keyword_frequency", "word": "a"}, ["needs 'low', 'high' or both"]),
        ({"kind": "letter_frequency", "letter": "ab", "low": 1}, ["letter = 'ab'"]),
        ({"kind": "exact_bullets", "count": 1, "mark": "#"}, ["mark = '#'"]),
    ],
)
def test_a_wrong_row_is_told_with_its_mend(row: dict[str, object], parts: list[str]) -> None:
    told = "\n".join(map(str, constraint_faults(row, "here")))
    assert all(part in told for part in parts)
    assert told.startswith("here: ")
    with pytest.raises(InputError, match="here"):
        parse_constraint(row, "here")


def test_a_constraint_is_a_value() -> None:
    one = Constraint("keywords", {"words": ["sea"]})
    assert one == parse_constraint({"kind": "keywords", "words": ("sea",)})
    assert hash(one) == hash(copy.deepcopy(one))
    assert pickle.loads(pickle.dumps(one)) == one
    assert str(one) == "keywords(words=('sea',))"
    with pytest.raises(InputError, match="needs the setting 'count'"):
        Constraint("max_words")
