"""Why a row is refused or what was repaired in it: one short name each, so that rows can be counted by it."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The names under which rows are counted. What is particular to a row stands in the detail beside it."""

    BAD_JSON = "bad JSON"
    BAD_CSV = "bad CSV"
    BAD_UTF8 = "not valid UTF-8"
    NUL = "NUL bytes"
    SURROGATE = "half of a surrogate pair (not valid Unicode)"
    NOT_AN_OBJECT = "not an object with columns"
    MISSING = "missing column"
    NO_VALUE = "no value in a needed column"
    NOT_TEXT = "content is not text"
    NOT_A_NUMBER = "not a finite number"
    NEGATIVE_MARGIN = "chosen is scored below rejected"
    UNKNOWN_ROLE = "unknown role"
    ROLE_ORDER = "wrong role order"
    REPLY_ROLE = "reply is not one assistant turn"
    EMPTY_TURN = "empty turn in the prompt"
    EMPTY_REPLY = "empty reply"
    EMPTY_TEXT = "empty text"
    NO_PROMPT = "no prompt"
    SAME = "chosen equals rejected"
    FEW = "fewer than two replies"
    UNEVEN = "replies and scores differ in number"
    TIED = "all scores are tied"
    TWICE = "the same reply twice"
    DIVERGED = "chosen and rejected differ before the last turn"
    PROMPT_DIFFERS = "the conversation does not begin with the prompt"
    TOOLS = "tools, tool calls or images (not supported)"
    TOO_LONG = "longer than max_length"

    STRIPPED = "surrounding whitespace stripped"
    EMPTY_SYSTEM = "empty system turn dropped"
    OLD_TURNS = "oldest turns dropped"


class Refused(Exception):  # noqa: N818 - a verdict on a row, caught and counted; nobody sees it as an error
    """This row cannot be used.

    Attributes:
        reason: the name it is counted under; has few distinct values however many rows there are.
        detail: what is particular to this row.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = str(reason), detail
        super().__init__(f"{self.reason}: {detail}" if detail else self.reason)
