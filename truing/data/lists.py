"""A raw row to a ranked list: replies of one prompt, each with a score or a rank.

The replies stand in a column ``completions``, ``responses`` or ``answers``, as texts, messages or whole conversations;
``scores`` (higher is better) or ``ranks`` (lower is better) is a column of as many numbers. Or each reply is a mapping
that holds both, under ``text``, ``response``, ``answer`` or ``completion`` and ``score``, ``overall_score`` or
``rank``, as in UltraFeedback and Nectar; the prompt may then be called ``instruction``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from truing.core.evidence import Pair, Ranked
from truing.core.policy import Chat
from truing.data.cells import Raw, as_reply, has, number
from truing.data.reasons import Reason, Refused
from truing.data.turns import Reader, check_prompt, transposed

REPLIES = ("completions", "responses", "answers")
TEXTS = ("text", "response", "answer", "completion")
SCORES = ("scores", "score", "overall_score")
RANKS = ("ranks", "rank")
INSTRUCTION = "instruction"
COLUMNS = (INSTRUCTION, *REPLIES, "scores", "ranks")
"""What a list is read from beside a prompt."""


def ranked(raw: Raw, prompts: Sequence[str], reader: Reader) -> Ranked | None:
    """The list of a row; None where a column is lacking.

    Args:
        prompts: columns that a prompt may stand in, the first that is there being taken.

    Raises:
        Refused: fewer than two replies, as many scores as replies not being there, a score that is no finite number,
            all scores tied, a reply that is empty or there twice, or a prompt that cannot be read.
    """
    given = next((name for name in (*prompts, INSTRUCTION) if has(raw, name)), None)
    column = next((name for name in REPLIES if has(raw, name)), None)
    if given is None or column is None:
        return None
    items = transposed(raw[column])
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise Refused(Reason.NOT_TEXT, f"{column} is a {type(items).__name__}, not a list")
    scores = _scores(raw, items, column)
    if scores is None:
        return None
    if len(items) < 2:
        raise Refused(Reason.FEW, f"{column} has {len(items)}")
    if len(scores) != len(items):
        raise Refused(Reason.UNEVEN, f"{len(items)} and {len(scores)}")
    chats, replies = [], []
    for place, item in ((f"{column}[{i}]", _text(item)) for i, item in enumerate(items)):
        if item is None:
            raise Refused(Reason.EMPTY_REPLY, f"nothing in {place}")
        chat, reply = as_reply({given: raw[given], place: item}, place, given, reader)
        chats.append(chat)
        replies.append(reply)
    return _checked(chats, replies, scores)


def ranked_pair(pair: Pair, raw: Raw) -> Ranked:
    """The list of two that a pair is, scored by ``score_chosen`` and ``score_rejected`` or else 1 and 0."""
    names = ("score_chosen", "score_rejected")
    scores = [number(raw[name], name) for name in names] if has(raw, *names) else [1.0, 0.0]
    if scores[0] < scores[1]:
        raise Refused(Reason.NEGATIVE_MARGIN, f"by {scores[1] - scores[0]:g}")
    return _checked([pair.prompt], [str(pair.chosen), str(pair.rejected)], scores)


def _checked(chats: Sequence[Chat], replies: Sequence[str], scores: Sequence[float]) -> Ranked:
    if any(chat != chats[0] for chat in chats):
        raise Refused(Reason.PROMPT_DIFFERS, "the replies are to different prompts")
    if len(set(replies)) < len(replies):
        raise Refused(Reason.TWICE, f"{len(replies)} replies, {len(set(replies))} of them different")
    if len(set(scores)) == 1:
        raise Refused(Reason.TIED, f"at {scores[0]:g}")
    return Ranked(check_prompt(chats[0]), tuple(replies), tuple(scores))


def _scores(raw: Raw, items: Sequence[object], column: str) -> list[float] | None:
    """A number for each reply, the higher the better; None where neither the row nor its replies have any."""
    for names, sign in ((SCORES, 1), (RANKS, -1)):
        if has(raw, names[0]):
            given = raw[names[0]]
            if not isinstance(given, Sequence) or isinstance(given, str | bytes):
                raise Refused(Reason.NOT_A_NUMBER, f"{names[0]} is a {type(given).__name__}, not a list of numbers")
            return [sign * number(value, f"{names[0]}[{i}]") for i, value in enumerate(given)]
        inside = [name for name in names[1:] if any(isinstance(item, Mapping) and name in item for item in items)]
        if inside:
            cells = [item.get(inside[0]) if isinstance(item, Mapping) else None for item in items]
            return [sign * number(value, f"{inside[0]} in {column}[{i}]") for i, value in enumerate(cells)]
    return None


def _text(item: object) -> object:
    """The reply of an item that also says how good it is; a text or a message is itself."""
    if not isinstance(item, Mapping) or "role" in item or "from" in item:
        return item
    return next((item[name] for name in TEXTS if item.get(name) is not None), None)


def is_plain(value: object) -> bool:
    """Whether a cell holds text or numbers, or a list of such, and no messages."""
    if isinstance(value, Mapping):
        return not {"role", "from"} & value.keys()
    if isinstance(value, list | tuple):
        return all(isinstance(item, str | int | float | Mapping) and is_plain(item) for item in value)
    return isinstance(value, str | int | float)
