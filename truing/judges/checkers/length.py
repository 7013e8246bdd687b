"""How long a reply is: words, sentences, lines, paragraphs, characters."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from truing.judges.checkers.text import checker, lines, paragraphs, sentences, within, words

Count = Annotated[int, Ge(1)]


@checker
def max_words(reply: str, *, count: Count) -> bool:
    """At most so many words."""
    return len(words(reply)) <= count


@checker
def min_words(reply: str, *, count: Count) -> bool:
    """At least so many words."""
    return len(words(reply)) >= count


@checker
def exact_words(reply: str, *, count: Count) -> bool:
    """Exactly so many words."""
    return len(words(reply)) == count


@checker
def word_range(reply: str, *, low: Count, high: Count) -> bool:
    """From ``low`` to ``high`` words, both included."""
    return within(len(words(reply)), low, high)


@checker
def max_sentences(reply: str, *, count: Count) -> bool:
    """At most so many sentences."""
    return len(sentences(reply)) <= count


@checker
def exact_sentences(reply: str, *, count: Count) -> bool:
    """Exactly so many sentences."""
    return len(sentences(reply)) == count


@checker
def max_characters(reply: str, *, count: Count) -> bool:
    """At most so many characters, spaces included, those around the reply not."""
    return len(reply.strip()) <= count


@checker
def exact_lines(reply: str, *, count: Count) -> bool:
    """Exactly so many lines that are not blank."""
    return len(lines(reply)) == count


@checker
def exact_paragraphs(reply: str, *, count: Count) -> bool:
    """Exactly so many paragraphs, parted by blank lines."""
    return len(paragraphs(reply)) == count


@checker
def short_words(reply: str, *, letters: Count) -> bool:
    """No word has more letters or digits than this."""
    return all(sum(map(str.isalnum, word)) <= letters for word in words(reply))
