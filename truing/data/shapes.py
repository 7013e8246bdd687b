"""One raw row to typed evidence: the formats people have, plain and conversational, told apart by their columns.

| columns | read as |
|---|---|
| ``prompt``, ``chosen``, ``rejected`` | a pair; also two ratings (1 and 0), a demo (the chosen reply), a prompt |
| ``chosen``, ``rejected`` | the same, the prompt being what both begin with |
| ``prompt``, ``completion``, ``label`` (or ``score``) | a rating; also a prompt |
| ``prompt``, ``completion`` | a demo; also a prompt |
| ``messages`` or ``conversations`` | a demo (the last turn is the reply); also a prompt |
| ``prompt`` | a prompt |
| ``positive``, ``negative`` | a contrast |
| ``text`` | a text |

Wherever a cell holds text it may be a ``Human:``/``Assistant:`` transcript, and a reply may be a text, one assistant
message, or the whole conversation that ends in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from truing.core.evidence import Contrast, Demo, Pair, Rating
from truing.core.policy import Chat, user
from truing.data.reasons import Reason, Refused
from truing.data.turns import Reader, check_order, check_prompt, common, is_transcript, split_text

Kind = Literal["pairs", "demos", "prompts", "ratings", "contrasts", "texts"]
Item = Pair | Demo | Chat | Rating | Contrast | str
Raw = Mapping[str, object]

PROMPTS = ("prompt", "messages", "conversations")
LABELS = ("label", "score")
UNSUPPORTED = ("tools", "images", "image", "videos")
NEEDS: Mapping[str, str] = {
    "pairs": "chosen and rejected, with prompt or each as the whole conversation",
    "demos": "prompt and completion, or messages, or conversations, or chosen",
    "prompts": "prompt, messages, conversations, or chosen and rejected",
    "ratings": "prompt, completion and label, or chosen and rejected",
    "contrasts": "positive and negative",
    "texts": "text",
}


@dataclass(frozen=True)
class Shaped:
    """What one row gave.

    Attributes:
        items: mostly one; a pair read as ratings gives two.
        shape: the columns that were read, and whether they hold messages or plain text.
        repairs: names of what was repaired.
    """

    items: tuple[Item, ...]
    shape: str
    repairs: tuple[str, ...] = ()


def shape(kind: Kind, raw: Raw, *, strip: bool = True) -> Shaped:
    """A raw row as evidence of a kind.

    Raises:
        Refused: the row cannot be read so; the reason has a name.

    Example:
        >>> shape("pairs", {"prompt": "1+1?", "chosen": "2", "rejected": "3"}).items[0].chosen
        '2'
    """
    unsupported = [name for name in UNSUPPORTED if raw.get(name)]
    if unsupported:
        raise Refused(Reason.TOOLS, f"column {unsupported[0]}")
    reader = Reader(strip=strip)
    items = _READERS[kind](raw, reader)
    used = [name for name in _USED if raw.get(name) is not None]
    style = "plain" if all(isinstance(raw[name], str | int | float) for name in used) else "conversational"
    transcript = any(is_transcript(raw[name]) for name in used)
    return Shaped(items, f"{'/'.join(used)}, {'transcript' if transcript else style}", tuple(sorted(reader.repairs)))


_USED = (*PROMPTS, "completion", "chosen", "rejected", *LABELS, "positive", "negative", "text")


def _missing(kind: Kind, raw: Raw) -> NoReturn:
    found = ", ".join(f"{name} (empty)" if raw[name] is None else str(name) for name in raw) or "none"
    empty = any(raw.get(name, "") is None for name in _USED)
    raise Refused(Reason.NO_VALUE if empty else Reason.MISSING, f"found: {found}; needed: {NEEDS[kind]}")


def _has(raw: Raw, *names: str) -> bool:
    return all(raw.get(name) is not None for name in names)


def _pair(raw: Raw, reader: Reader) -> Pair:
    if not _has(raw, "chosen", "rejected"):
        _missing("pairs", raw)
    prompt, chosen, rejected = _sides(raw, reader)
    if chosen == rejected:
        raise Refused(Reason.SAME)
    return Pair(check_prompt(prompt), chosen, rejected, _margin(raw))


def _sides(raw: Raw, reader: Reader) -> tuple[Chat, str, str]:
    """Prompt, chosen and rejected of a row that has both, from any of the layouts."""
    given = next((name for name in PROMPTS if _has(raw, name)), None)
    if given is not None:
        one, chosen = _reply(raw, "chosen", given, reader)
        two, rejected = _reply(raw, "rejected", given, reader)
        if one != two:
            raise Refused(Reason.DIVERGED)
        return one, chosen, rejected
    left, right = _whole(raw["chosen"], "chosen", reader), _whole(raw["rejected"], "rejected", reader)
    if isinstance(left, str) and isinstance(right, str):
        _spoken(left), _spoken(right)
        if left.strip() == right.strip():
            raise Refused(Reason.SAME)
        prompt, *rests = split_text(left, right)
        if not prompt:
            raise Refused(Reason.NO_PROMPT, "no prompt column, and chosen and rejected share no whole first word")
        rests = [rest.lstrip() if reader.strip else rest for rest in rests]  # whitespace at the cut is nobody's
        texts = [reader.text(text, name) for text, name in zip(rests, ("chosen", "rejected"), strict=True)]
        return user(reader.text(prompt, "chosen")), texts[0], texts[1]
    if isinstance(left, str) or isinstance(right, str):
        raise Refused(Reason.NOT_TEXT, "one of chosen and rejected is text, the other a conversation")
    if left == right:
        raise Refused(Reason.SAME)
    shared = common(left, right)
    if len(left) != shared + 1 or len(right) != shared + 1:
        fact = f"they share {shared} turns of {len(left)} and {len(right)}"
        _last_turn(left), _last_turn(right)  # an empty or misplaced reply is the plainer reason, if it is one
        raise Refused(Reason.DIVERGED, fact)
    return left[:shared], _last_turn(left), _last_turn(right)


def _whole(value: object, place: str, reader: Reader) -> Chat | str:
    """A cell that holds a conversation, or a text that is none."""
    if not isinstance(value, str):
        return reader.turns(value, place)
    return reader.transcript(value, place) if is_transcript(value) else value


def _last_turn(chat: Chat) -> str:
    """The reply that a conversation ends in."""
    if not chat or chat[-1].role != "assistant":
        raise Refused(Reason.REPLY_ROLE, f"the last turn is by {chat[-1].role if chat else 'nobody'}")
    return _spoken(chat[-1].content)


def _spoken(text: str) -> str:
    if not text.strip():
        raise Refused(Reason.EMPTY_REPLY)
    return text


def _prompt(value: object, place: str, reader: Reader) -> Chat:
    if not isinstance(value, str):
        return reader.turns(value, place)
    if is_transcript(value):
        chat = reader.transcript(value, place)
        return chat if chat[-1].role != "assistant" or chat[-1].content.strip() else chat[:-1]
    return user(reader.text(value, place)) if value.strip() else ()


def _reply(raw: Raw, name: str, given: str, reader: Reader) -> tuple[Chat, str]:
    """The prompt and the reply of a row with a prompt column; the reply may be the whole conversation."""
    prompt, value = _prompt(raw[given], given, reader), raw[name]
    if isinstance(value, str) and not is_transcript(value):
        try:
            return prompt, _spoken(reader.text(value, name))
        except Refused as refused:
            raise Refused(refused.reason, refused.detail or name) from refused
    chat = reader.transcript(value, name) if isinstance(value, str) else reader.turns(value, name)
    reply = _last_turn(chat)
    if len(chat) == 1:
        return prompt, reply
    before = chat[:-1]
    spoken = [turn.content for turn in before if turn.role == "user"]
    plain = isinstance(raw[given], str) and len(prompt) == 1 and prompt[0].content in (spoken[:1] + spoken[-1:])
    if before != prompt and not plain:
        raise Refused(Reason.PROMPT_DIFFERS, f"{name} has {len(before)} turns before its reply")
    return before, reply


def _margin(raw: Raw) -> float | None:
    """The rating difference: ``margin``, or ``score_chosen`` less ``score_rejected``."""
    if _has(raw, "margin"):
        margin = number(raw["margin"], "margin")
    elif _has(raw, "score_chosen", "score_rejected"):
        margin = number(raw["score_chosen"], "score_chosen") - number(raw["score_rejected"], "score_rejected")
    else:
        return None
    if margin < 0:
        raise Refused(Reason.NEGATIVE_MARGIN, f"by {-margin:g}")
    return margin


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


def _demo(raw: Raw, reader: Reader) -> Demo:
    if _has(raw, "prompt"):
        name = next((name for name in ("completion", "chosen") if _has(raw, name)), None) or _missing("demos", raw)
        prompt, reply = _reply(raw, name, "prompt", reader)
        return Demo(check_prompt(prompt), reply)
    if _has(raw, "chosen", "rejected"):
        prompt, reply, _ = _sides(raw, reader)
        return Demo(check_prompt(prompt), reply)
    name = next((name for name in PROMPTS if _has(raw, name)), None) or _missing("demos", raw)
    chat = _prompt(raw[name], name, reader)
    reply = _last_turn(chat)
    return Demo(check_prompt(chat[:-1]), reply)


def _prompts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if _has(raw, "prompt"):
        for name in ("completion", "chosen"):  # a whole conversation tells more of the prompt than its last turn
            if _has(raw, name) and (not isinstance(raw[name], str) or is_transcript(raw[name])):
                return (check_prompt(_reply(raw, name, "prompt", reader)[0]),)
        return (check_prompt(_prompt(raw["prompt"], "prompt", reader)),)
    if _has(raw, "chosen", "rejected"):
        return (check_prompt(_sides(raw, reader)[0]),)
    name = next((name for name in PROMPTS if _has(raw, name)), None) or _missing("prompts", raw)
    chat = _prompt(raw[name], name, reader)
    return (check_prompt(chat[:-1] if chat and chat[-1].role == "assistant" else chat),)


def _ratings(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if _has(raw, "chosen", "rejected"):
        pair = _pair(raw, reader)
        return Rating(pair.prompt, pair.chosen, 1.0), Rating(pair.prompt, pair.rejected, 0.0)
    label = next((name for name in LABELS if _has(raw, name)), None) or _missing("ratings", raw)
    if not (_has(raw, "prompt", "completion") or _has(raw, "messages") or _has(raw, "conversations")):
        _missing("ratings", raw)
    demo = _demo({name: cell for name, cell in raw.items() if name != "chosen"}, reader)
    return (Rating(demo.prompt, demo.reply, number(raw[label], label)),)


def _contrasts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if not _has(raw, "positive", "negative"):
        _missing("contrasts", raw)
    sides = [_prompt(raw[name], name, reader) for name in ("positive", "negative")]
    for side in sides:
        if not side:
            raise Refused(Reason.EMPTY_TEXT)
        check_order(side)
    return (Contrast(sides[0], sides[1]),)


def _texts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if not _has(raw, "text"):
        _missing("texts", raw)
    text = reader.text(raw["text"], "text")
    if not text.strip():
        raise Refused(Reason.EMPTY_TEXT)
    return (text,)


_READERS: Mapping[Kind, Callable[[Raw, Reader], tuple[Item, ...]]] = {
    "pairs": lambda raw, reader: (_pair(raw, reader),),
    "demos": lambda raw, reader: (_demo(raw, reader),),
    "prompts": _prompts,
    "ratings": _ratings,
    "contrasts": _contrasts,
    "texts": _texts,
}
