"""The cells of one row: which are there, and what a prompt, a reply or a number in one of them says."""

from __future__ import annotations

import math
from collections.abc import Mapping

from truing.core.policy import Chat, user
from truing.data.reasons import Reason, Refused
from truing.data.turns import Reader, is_transcript

Raw = Mapping[str, object]


def has(raw: Raw, *names: str) -> bool:
    """Whether a row has a value in each of these columns."""
    return all(raw.get(name) is not None for name in names)


def as_whole(value: object, place: str, reader: Reader) -> Chat | str:
    """A cell that holds a conversation, or a text that is none."""
    if not isinstance(value, str):
        return reader.turns(value, place)
    return reader.transcript(value, place) if is_transcript(value) else value


def last_turn(chat: Chat) -> str:
    """The reply that a conversation ends in."""
    if not chat or chat[-1].role != "assistant":
        raise Refused(Reason.REPLY_ROLE, f"the last turn is by {chat[-1].role if chat else 'nobody'}")
    return not_blank(chat[-1].content)


def not_blank(text: str) -> str:
    """A reply that says something."""
    if not text.strip():
        raise Refused(Reason.EMPTY_REPLY)
    return text


def as_prompt(value: object, place: str, reader: Reader) -> Chat:
    """A cell that holds a prompt, as a text, a transcript or messages; blank text is the empty chat."""
    if not isinstance(value, str):
        return reader.turns(value, place)
    if is_transcript(value):
        chat = reader.transcript(value, place)
        return chat if chat[-1].role != "assistant" or chat[-1].content.strip() else chat[:-1]
    return user(reader.text(value, place)) if value.strip() else ()


def as_reply(raw: Raw, name: str, given: str, reader: Reader) -> tuple[Chat, str]:
    """The prompt and the reply of a row with a prompt column; the reply may be the whole conversation."""
    prompt, value = as_prompt(raw[given], given, reader), raw[name]
    if isinstance(value, str) and not is_transcript(value):
        try:
            return prompt, not_blank(reader.text(value, name))
        except Refused as refused:
            raise Refused(refused.reason, refused.detail or name) from refused
    chat = reader.transcript(value, name) if isinstance(value, str) else reader.turns(value, name)
    reply = last_turn(chat)
    if len(chat) == 1:
        return prompt, reply
    before = chat[:-1]
    spoken = [turn.content for turn in before if turn.role == "user"]
    plain = isinstance(raw[given], str) and len(prompt) == 1 and prompt[0].content in (spoken[:1] + spoken[-1:])
    if before != prompt and not plain:
        raise Refused(Reason.PROMPT_DIFFERS, f"{name} has {len(before)} turns before its reply")
    return before, reply


def number(value: object, place: str) -> float:
    """A finite number; ``true`` and ``false`` (also as text, as in a CSV) are 1 and 0.

    Raises:
        Refused: it is something else.
    """
    words = {"true": 1.0, "false": 0.0}
    try:
        found = words.get(value.lower()) if isinstance(value, str) else None
        found = float(value) if found is None else found  # type: ignore[arg-type]  # what float refuses is caught
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refused(Reason.NOT_A_NUMBER, f"{place} is {str(value)[:40]!r}")
    return found
