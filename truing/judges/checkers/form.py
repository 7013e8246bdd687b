"""The shape of a reply: lists, JSON, titles, sections and parts."""

from __future__ import annotations

import re
from json import loads
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from truing.judges.checkers.text import bullets, checker, lines, numbers_of_list

Count = Annotated[int, Ge(1)]
Text = Annotated[str, MinLen(1)]
Mark = Literal["-", "*", "•"]


@checker
def exact_bullets(reply: str, *, count: Count, mark: Mark | None = None) -> bool:
    """Exactly so many bulleted lines, all with ``mark`` where one is named."""
    found = bullets(reply)
    return len(found) == count and all(mark in (None, seen) for seen, _ in found)


@checker
def min_bullets(reply: str, *, count: Count, mark: Mark | None = None) -> bool:
    """At least so many bulleted lines, counting those with ``mark`` where one is named."""
    return sum(mark in (None, seen) for seen, _ in bullets(reply)) >= count


@checker
def numbered_list(reply: str, *, count: Count) -> bool:
    """Lines numbered from 1 to ``count`` in order, and no further."""
    return numbers_of_list(reply) == list(range(1, count + 1))


@checker
def comma_list(reply: str, *, count: Count) -> bool:
    """One line of exactly so many items with a comma between each two."""
    items = reply.strip().split(",")
    return len(lines(reply)) == 1 and len(items) == count and all(any(map(str.isalnum, item)) for item in items)


@checker
def json(reply: str, *, keys: tuple[str, ...] = ()) -> bool:
    """Nothing but one JSON object that has these keys; a code fence around it is let pass."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*)\n\s*```", reply.strip(), re.DOTALL)
    try:
        value = loads(fenced.group(1) if fenced else reply, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and all(key in value for key in keys)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # Python reads NaN and Infinity, the standard does not


@checker
def title(reply: str) -> bool:
    """A title in double angle brackets, <<like this>>."""
    return re.search(r"<<[^<>\n]*\w[^<>\n]*>>", reply) is not None


@checker
def heading(reply: str) -> bool:
    """The first line is a Markdown heading: one to six ``#`` and a space."""
    return re.match(r"#{1,6} +\S", reply.strip()) is not None


@checker
def highlighted(reply: str, *, count: Count = 1) -> bool:
    """At least so many passages in *single* or **double** asterisks."""
    return len(re.findall(r"(\*{1,2})(?=\S)[^*\n]*[^*\s]\1", reply)) >= count


@checker
def postscript(reply: str, *, marker: Text = "P.S.") -> bool:
    """A postscript: the marker at the start of a line or after a space, with words behind it."""
    return re.search(rf"(?:^|\s){re.escape(marker)}[\s:,]*\w", reply) is not None


@checker
def sections(reply: str, *, count: Count, word: Text = "Section") -> bool:
    """Lines that begin ``Section 1``, ``Section 2`` and so on, exactly so many, in order."""
    found = re.findall(rf"^[\s#*]*{re.escape(word)} +(\d+)\b", reply, re.MULTILINE)
    return list(map(int, found)) == list(range(1, count + 1))


@checker
def two_parts(reply: str, *, separator: Text = "***") -> bool:
    """Two texts with the separator between them, once."""
    parts = reply.split(separator)
    return len(parts) == 2 and all(any(map(str.isalnum, part)) for part in parts)


@checker
def placeholders(reply: str, *, count: Count) -> bool:
    """At least so many gaps to fill in, in square brackets, like [name]."""
    return len(re.findall(r"\[[^\[\]\n]*\w[^\[\]\n]*\]", reply)) >= count
