"""Cells of a row to turns: messages, transcripts, and the splitting of a prompt from two texts that share it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from truing.core.policy import Chat, Message
from truing.data.reasons import Reason, Refused

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Names of roles in the formats that are read, TRL's and ShareGPT's, and ours for them."""

FOLLOWS = {
    "": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
"""Which role may come after which; the empty one is the beginning, after the system turn where there is one."""

_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[^\S\n]?")


class Reader:
    """Reads cells of one row and remembers what it repaired.

    Args:
        strip: whether whitespace around a turn is taken off.
    """

    def __init__(self, *, strip: bool = True) -> None:
        self.strip = strip
        self.repairs: set[str] = set()

    def text(self, value: object, place: str) -> str:
        """A cell as clean text.

        Raises:
            Refused: not text, NUL bytes, or half of a surrogate pair.
        """
        if not isinstance(value, str):
            raise Refused(Reason.NOT_TEXT, f"{place} is a {type(value).__name__}")
        if "\0" in value:
            raise Refused(Reason.NUL, f"in {place}")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused(Reason.SURROGATE, f"in {place}, character {error.start + 1}") from error
        if self.strip and value != value.strip():
            self.repairs.add(Reason.STRIPPED)
            return value.strip()
        return value

    def turns(self, value: object, place: str) -> Chat:
        """Messages of a cell: a list of them, one of them, or a column of roles beside one of contents."""
        value = transposed(value)
        items = [value] if isinstance(value, Mapping) else value
        if not isinstance(items, Sequence) or isinstance(items, str | bytes):
            raise Refused(Reason.NOT_TEXT, f"{place} is a {type(value).__name__}, neither text nor messages")
        found = [self._turn(item, f"{place}[{number}]") for number, item in enumerate(items)]
        if found and found[0].role == "system" and not found[0].content.strip():
            self.repairs.add(Reason.EMPTY_SYSTEM)
            found = found[1:]
        return tuple(found)

    def _turn(self, item: object, place: str) -> Message:
        if not isinstance(item, Mapping):
            raise Refused(Reason.NOT_TEXT, f"{place} is a {type(item).__name__}, not a message")
        role = item.get("role", item.get("from"))
        if not isinstance(role, str) or role.lower() not in ROLES:
            raise Refused(Reason.UNKNOWN_ROLE, f"{role!r} in {place}")
        if item.get("tool_calls") or item.get("images"):
            raise Refused(Reason.TOOLS, f"in {place}")
        return Message(ROLES[role.lower()], self.text(item.get("content", item.get("value")), place))

    def transcript(self, text: str, place: str) -> Chat:
        """The turns of a ``Human:``/``Assistant:`` transcript; an ``Assistant:`` left open is an empty turn."""
        text = text.lstrip("\n")
        marks = list(_MARKER.finditer(text))
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        speakers = {"Human": "user", "Assistant": "assistant"}
        found = [Message(speakers[mark[1]], text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
        return tuple(Message(turn.role, self.text(turn.content, place)) for turn in found)


def transposed(value: object) -> object:
    """Columns side by side, as Arrow gives a list of structs, as the list that they are; all else as it is."""
    if isinstance(value, Mapping) and all(isinstance(cell, list | tuple) for cell in value.values()):
        return [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    return value


def is_transcript(value: object) -> bool:
    """Whether a text is a transcript: it opens with ``Human:`` (after blank lines) and has ``\\n\\nAssistant:``."""
    return isinstance(value, str) and value.lstrip("\n").startswith("Human:") and "\n\nAssistant:" in value


def check_order(chat: Chat) -> None:
    """Raise Refused unless a chat is an optional system turn and then user and assistant in turn, none empty."""
    before = ""
    for number, turn in enumerate(chat):
        if turn.role == "system" and number == 0:
            continue
        if turn.role not in FOLLOWS[before]:
            after = f"after {before}" if before else "first"
            raise Refused(Reason.ROLE_ORDER, f"{turn.role} {after} (turn {number + 1})")
        before = turn.role
    if any(not turn.content.strip() for turn in chat):
        raise Refused(Reason.EMPTY_TURN, f"turn {[bool(turn.content.strip()) for turn in chat].index(False) + 1}")


def check_prompt(chat: Chat) -> Chat:
    """The chat, where it can await a reply.

    Raises:
        Refused: there is no turn of a user, the order is wrong, or the assistant spoke last.
    """
    if not any(turn.role != "system" for turn in chat):
        raise Refused(Reason.NO_PROMPT)
    check_order(chat)
    if chat[-1].role == "assistant":
        raise Refused(Reason.ROLE_ORDER, "the prompt ends with an assistant turn")
    return chat


def common(left: Sequence[object], right: Sequence[object]) -> int:
    """How many items (turns, characters) two sequences share from the beginning."""
    pairs: Iterable[tuple[object, object]] = zip(left, right, strict=False)
    for number, (a, b) in enumerate(pairs):
        if a != b:
            return number
    return min(len(left), len(right))


def split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """A prompt that two texts share, and what each says after it.

    The prompt is the longest common prefix of characters that ends with a whole word of both texts (a word is a run of
    characters other than whitespace) and leaves neither rest blank. The whitespace at the cut begins the rests, so
    ``prompt + rest`` is each text, character for character. Where two replies open with the same words, those count as
    prompt: nothing in the texts tells them apart, which is why a ``prompt`` column is better.

    Returns: prompt, rest of chosen, rest of rejected; the prompt is empty where no whole word is shared.

    Example:
        >>> split_text("The sky is blue", "The sky is black")
        ('The sky is', ' blue', ' black')
    """
    last = min(len(chosen.rstrip()), len(rejected.rstrip())) - 1
    for cut in range(min(common(chosen, rejected), last), 0, -1):
        if chosen[cut].isspace() and rejected[cut].isspace() and not chosen[cut - 1].isspace():
            return chosen[:cut], chosen[cut:], rejected[cut:]
    return "", chosen, rejected
