"""What counts as a word, a sentence, a line: one definition for every checker."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

P = ParamSpec("P")
_ABBREVIATIONS = r"\b(?:e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|St|No|Jr|Sr|a\.m|p\.m|U\.S|P\.S)\."
_END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s|$)|\n+")
_MARKER = re.compile(r"^\s*(?:\d{1,3}[.)]|[-*•+])\s+", re.MULTILINE)
_BULLET = re.compile(r"^\s*([-*•])\s+(\S.*)$", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(\d{1,3})[.)]\s+\S", re.MULTILINE)


def checker(function: Callable[Concatenate[str, P], bool]) -> Callable[Concatenate[str, P], bool]:
    """Let a reply that says nothing satisfy nothing.

    Without this the best reply to "use no commas" would be no reply. A reply says something when it holds
    one letter or digit.
    """

    @wraps(function)
    def checked(reply: str, /, *args: P.args, **settings: P.kwargs) -> bool:
        return any(map(str.isalnum, reply)) and function(reply, *args, **settings)

    return checked


def words(text: str) -> list[str]:
    """Runs of non-space characters that hold a letter or digit: ``well-known`` is one word, ``-`` none.

    Example:
        >>> words("- a well-known fact, no?")
        ['a', 'well-known', 'fact,', 'no?']
    """
    return [token for token in text.split() if any(map(str.isalnum, token))]


def bare(word: str) -> str:
    """A word in lower case, without the marks around it.

    Example:
        >>> bare('"Honestly,')
        'honestly'
    """
    return re.sub(r"^[\W_]+|[\W_]+$", "", word).lower()


def sentences(text: str) -> list[str]:
    """Sentences: they end at ``. ! ? …`` before a space, or at the end of a line.

    List markers (``1.``) and common abbreviations (``e.g.``) end none; decimal points stand before no space.
    A piece without a letter or digit is no sentence.
    """
    text = _MARKER.sub("", text)
    text = re.sub(_ABBREVIATIONS, lambda found: found.group().replace(".", "\x00"), text)
    return [piece.strip().replace("\x00", ".") for piece in _END.split(text) if any(map(str.isalnum, piece))]


def lines(text: str) -> list[str]:
    """Lines that hold something, stripped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def paragraphs(text: str) -> list[str]:
    """Blocks of text between blank lines."""
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def bullets(text: str) -> list[tuple[str, str]]:
    """``(mark, item)`` of every line that begins with ``-``, ``*`` or ``•`` and a space."""
    return [(mark, item.strip()) for mark, item in _BULLET.findall(text)]


def numbers_of_list(text: str) -> list[int]:
    """The numbers of the lines that begin like ``1.`` or ``1)``, in order."""
    return [int(number) for number in _NUMBERED.findall(text)]


def occurrences(text: str, phrase: str) -> int:
    """How often a word or phrase stands in a text as whole words, in any case; spaces match any white space."""
    inner = r"\s+".join(map(re.escape, phrase.split()))
    return len(re.findall(rf"(?<!\w){inner}(?!\w)", text, re.IGNORECASE))


def within(count: int, low: int, high: int | None) -> bool:
    """``low <= count <= high``; None is no upper end."""
    return low <= count and (high is None or count <= high)
