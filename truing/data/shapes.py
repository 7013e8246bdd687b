"""One raw row to typed evidence: the formats people have, plain and conversational, told apart by their columns.

| columns | read as |
|---|---|
| ``prompt``, ``chosen``, ``rejected`` | a pair; also two ratings (1 and 0), a demo (the chosen reply), a prompt |
| ``chosen``, ``rejected`` | the same, the prompt being what both begin with |
| ``prompt``, ``completion``, ``label`` (or ``score``) | a rating; also a prompt |
| ``prompt``, ``completion`` | a demo; also a prompt |
| ``messages`` or ``conversations`` | a demo (the last turn is the reply); also a prompt |
| ``prompt`` | a prompt |
| ``prompt``, ``completions``, ``scores`` (or ``ranks``) | a ranked list; also a prompt |
| ``prompt``, ``chosen``, ``rejected`` | read as ``lists``: one of two, scored 1 and 0 or as the columns say |
| ``positive``, ``negative`` | a contrast |
| ``text`` | a text |

Wherever a cell holds text it may be a ``Human:``/``Assistant:`` transcript, and a reply may be a text, one assistant
message, or the whole conversation that ends in it. The columns of a list have more
names, which :mod:`lists` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn

from truing.core.evidence import Contrast, Demo, Pair, Ranked, Rating
from truing.core.policy import Chat, user
from truing.data.cells import Raw, as_prompt, as_reply, as_whole, has, last_turn, not_blank, number
from truing.data.lists import COLUMNS, is_plain, ranked, ranked_pair
from truing.data.reasons import Reason, Refused
from truing.data.turns import Reader, check_order, check_prompt, common, is_transcript, split_text

Kind = Literal["pairs", "lists", "demos", "prompts", "ratings", "contrasts", "texts"]
Item = Pair | Ranked | Demo | Chat | Rating | Contrast | str

PROMPTS = ("prompt", "messages", "conversations")
LABELS = ("label", "score")
UNSUPPORTED = ("tools", "images", "image", "videos")
NEEDS: Mapping[str, str] = {
    "pairs": "chosen and rejected, with prompt or each as the whole conversation",
    "lists": "prompt and completions with scores or ranks, or chosen and rejected",
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
    style = "plain" if all(is_plain(raw[name]) for name in used) else "conversational"
    transcript = any(is_transcript(raw[name]) for name in used)
    return Shaped(items, f"{'/'.join(used)}, {'transcript' if transcript else style}", tuple(sorted(reader.repairs)))


_USED = (*PROMPTS, "completion", "chosen", "rejected", *LABELS, *COLUMNS, "positive", "negative", "text")


def _missing(kind: Kind, raw: Raw) -> NoReturn:
    found = ", ".join(f"{name} (empty)" if raw[name] is None else str(name) for name in raw) or "none"
    empty = any(raw.get(name, "") is None for name in _USED)
    raise Refused(Reason.NO_VALUE if empty else Reason.MISSING, f"found: {found}; needed: {NEEDS[kind]}")


def _pair(raw: Raw, reader: Reader) -> Pair:
    if not has(raw, "chosen", "rejected"):
        _missing("pairs", raw)
    prompt, chosen, rejected = _sides(raw, reader)
    if chosen == rejected:
        raise Refused(Reason.SAME)
    return Pair(check_prompt(prompt), chosen, rejected, _margin(raw))


def _sides(raw: Raw, reader: Reader) -> tuple[Chat, str, str]:
    """Prompt, chosen and rejected of a row that has both, from any of the layouts."""
    given = next((name for name in PROMPTS if has(raw, name)), None)
    if given is not None:
        one, chosen = as_reply(raw, "chosen", given, reader)
        two, rejected = as_reply(raw, "rejected", given, reader)
        if one != two:
            raise Refused(Reason.DIVERGED)
        return one, chosen, rejected
    left, right = as_whole(raw["chosen"], "chosen", reader), as_whole(raw["rejected"], "rejected", reader)
    if isinstance(left, str) and isinstance(right, str):
        not_blank(left), not_blank(right)
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
        last_turn(left), last_turn(right)  # an empty or misplaced reply is the plainer reason, if it is one
        raise Refused(Reason.DIVERGED, fact)
    return left[:shared], last_turn(left), last_turn(right)


def _margin(raw: Raw) -> float | None:
    """The rating difference: ``margin``, or ``score_chosen`` less ``score_rejected``."""
    if has(raw, "margin"):
        margin = number(raw["margin"], "margin")
    elif has(raw, "score_chosen", "score_rejected"):
        margin = number(raw["score_chosen"], "score_chosen") - number(raw["score_rejected"], "score_rejected")
    else:
        return None
    if margin < 0:
        raise Refused(Reason.NEGATIVE_MARGIN, f"by {-margin:g}")
    return margin


def _list(raw: Raw, reader: Reader) -> Ranked:
    found = ranked(raw, PROMPTS, reader)
    if found is None and has(raw, "chosen", "rejected"):
        found = ranked_pair(_pair(raw, reader), raw)
    return found or _missing("lists", raw)


def _demo(raw: Raw, reader: Reader) -> Demo:
    if has(raw, "prompt"):
        name = next((name for name in ("completion", "chosen") if has(raw, name)), None) or _missing("demos", raw)
        prompt, reply = as_reply(raw, name, "prompt", reader)
        return Demo(check_prompt(prompt), reply)
    if has(raw, "chosen", "rejected"):
        prompt, reply, _ = _sides(raw, reader)
        return Demo(check_prompt(prompt), reply)
    name = next((name for name in PROMPTS if has(raw, name)), None) or _missing("demos", raw)
    chat = as_prompt(raw[name], name, reader)
    reply = last_turn(chat)
    return Demo(check_prompt(chat[:-1]), reply)


def _prompts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if has(raw, "prompt"):
        for name in ("completion", "chosen"):  # a whole conversation tells more of the prompt than its last turn
            if has(raw, name) and (not isinstance(raw[name], str) or is_transcript(raw[name])):
                return (check_prompt(as_reply(raw, name, "prompt", reader)[0]),)
        return (check_prompt(as_prompt(raw["prompt"], "prompt", reader)),)
    if has(raw, "chosen", "rejected"):
        return (check_prompt(_sides(raw, reader)[0]),)
    name = next((name for name in PROMPTS if has(raw, name)), None) or _missing("prompts", raw)
    chat = as_prompt(raw[name], name, reader)
    return (check_prompt(chat[:-1] if chat and chat[-1].role == "assistant" else chat),)


def _ratings(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if has(raw, "chosen", "rejected"):
        pair = _pair(raw, reader)
        return Rating(pair.prompt, pair.chosen, 1.0), Rating(pair.prompt, pair.rejected, 0.0)
    label = next((name for name in LABELS if has(raw, name)), None) or _missing("ratings", raw)
    if not (has(raw, "prompt", "completion") or has(raw, "messages") or has(raw, "conversations")):
        _missing("ratings", raw)
    demo = _demo({name: cell for name, cell in raw.items() if name != "chosen"}, reader)
    return (Rating(demo.prompt, demo.reply, number(raw[label], label)),)


def _contrasts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if not has(raw, "positive", "negative"):
        _missing("contrasts", raw)
    sides = [as_prompt(raw[name], name, reader) for name in ("positive", "negative")]
    for side in sides:
        if not side:
            raise Refused(Reason.EMPTY_TEXT)
        check_order(side)
    return (Contrast(sides[0], sides[1]),)


def _texts(raw: Raw, reader: Reader) -> tuple[Item, ...]:
    if not has(raw, "text"):
        _missing("texts", raw)
    text = reader.text(raw["text"], "text")
    if not text.strip():
        raise Refused(Reason.EMPTY_TEXT)
    return (text,)


_READERS: Mapping[Kind, Callable[[Raw, Reader], tuple[Item, ...]]] = {
    "pairs": lambda raw, reader: (_pair(raw, reader),),
    "lists": lambda raw, reader: (_list(raw, reader),),
    "demos": lambda raw, reader: (_demo(raw, reader),),
    "prompts": _prompts,
    "ratings": _ratings,
    "contrasts": _contrasts,
    "texts": _texts,
}
