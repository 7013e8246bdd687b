"""Questions with choices, of which one is right: what a model knew before it was aligned, and should know after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.core.errors import Fault, InputError, bad
from truing.data.promptset import shipped_lines
from truing.data.strict import every_row

SHIPPED = "general"


@dataclass(frozen=True)
class Question:
    """A question and what may be said to it.

    Attributes:
        choices: at least two, each once.
        answer: the place of the right one, from 0.
    """

    question: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class QuestionSet:
    """Questions, and a hash of them."""

    questions: Sequence[Question]
    digest: str


def load_questions(spec: object = SHIPPED, place: str = "questions") -> QuestionSet:
    """Read questions: ``general``, which is shipped (64 easy ones of general knowledge), or a source of rows.

    A row has ``question``, ``choices`` (a list of texts) and ``answer``: the place of the right choice from 0, or its
    text. None is left out: a measure over other questions is another measure.

    Raises:
        InputError: every fault of the rows at once, or there are none.
    """
    given = spec.get("source") if isinstance(spec, Mapping) and set(spec) == {"source"} else spec
    source = [json.loads(line) for line in shipped_lines("questions")] if given == SHIPPED else given
    found, faults = every_row(source, place, _row_faults, _question)
    if faults:
        raise InputError(*faults)
    if not found:
        raise bad(place, "has no rows", "Give at least one question.")
    told = json.dumps([vars(each) for each in found], ensure_ascii=False, sort_keys=True)
    return QuestionSet(tuple(found), hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest())


def _question(row: Mapping[str, Any]) -> Question:
    answer, choices = row["answer"], tuple(row["choices"])
    return Question(row["question"], choices, choices.index(answer) if isinstance(answer, str) else answer)


def _row_faults(row: Mapping[str, object], place: str) -> list[Fault]:
    faults = []
    if not _says(row.get("question")):
        faults.append(Fault(place, f"'question' is {row.get('question')!r}", "Give a text."))
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list | tuple) or len(choices) < 2 or not all(map(_says, choices)):
        return [*faults, Fault(place, f"'choices' is {choices!r}", "Give a list of two texts or more.")]
    if len(set(choices)) < len(choices):
        faults.append(Fault(place, "a choice is there twice", "Give each once."))
    number = isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices)
    if not number and answer not in choices:
        mend = f"Give the text of a choice, or its place, 0 to {len(choices) - 1}."
        faults.append(Fault(place, f"'answer' is {answer!r}", mend))
    return faults


def _says(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
