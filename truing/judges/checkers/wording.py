"""Which words a reply uses, and with which it begins and ends."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import StringConstraints

from truing.judges.checkers.text import bare, checker, occurrences, within, words

Word = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Words = Annotated[tuple[Word, ...], MinLen(1)]
Times = Annotated[int, Ge(0)]


@checker
def keywords(reply: str, *, words: Words) -> bool:
    """Every one of these words or phrases, as whole words, in any case."""
    return all(occurrences(reply, word) for word in words)


@checker
def any_keyword(reply: str, *, words: Words) -> bool:
    """At least one of these words or phrases."""
    return any(occurrences(reply, word) for word in words)


@checker
def forbidden(reply: str, *, words: Words) -> bool:
    """None of these words or phrases."""
    return not any(occurrences(reply, word) for word in words)


@checker
def keyword_frequency(reply: str, *, word: Word, low: Times = 0, high: Times | None = None) -> bool:
    """One word or phrase from ``low`` to ``high`` times."""
    return within(occurrences(reply, word), low, high)


@checker
def contains(reply: str, *, text: Word) -> bool:
    """This very text, character by character, anywhere."""
    return text in reply


@checker
def starts_with(reply: str, *, text: Word) -> bool:
    """Begins with this very text, which does not break off in the middle of a word."""
    start = reply.strip()
    return start.startswith(text) and not (text[-1].isalnum() and start[len(text) :][:1].isalnum())


@checker
def ends_with(reply: str, *, text: Word) -> bool:
    """Ends with this very text, which does not begin in the middle of a word."""
    end = reply.strip()
    return end.endswith(text) and not (text[0].isalnum() and end[: -len(text)][-1:].isalnum())


@checker
def first_word(reply: str, *, word: Word) -> bool:
    """The first word is this one, in any case; marks around it do not count."""
    return bare(words(reply)[0]) == word.lower()


@checker
def last_word(reply: str, *, word: Word) -> bool:
    """The last word is this one, in any case; marks around it do not count."""
    return bare(words(reply)[-1]) == word.lower()


@checker
def choice(reply: str, *, options: Words) -> bool:
    """Nothing but one of these answers, in any case; a full stop and quotation marks are let pass."""
    answer = reply.strip().strip("\"'“”‘’ .*").lower()
    return answer in {option.strip(".").lower() for option in options}


@checker
def distinct_words(reply: str) -> bool:
    """No word stands twice, in any case."""
    used = [bare(word) for word in words(reply)]
    return len(set(used)) == len(used)
