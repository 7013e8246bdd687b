"""Case, punctuation, digits and letters."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from annotated_types import Ge
from pydantic import StringConstraints

from truing.judges.checkers.text import checker, within, words

Times = Annotated[int, Ge(0)]
Letter = Annotated[str, StringConstraints(pattern=r"^[^\W\d_]$")]
_CLOSING = "\"'”’)]*_ \n\t"


@checker
def lowercase(reply: str) -> bool:
    """Letters, and none of them a capital."""
    return any(map(str.islower, reply)) and not any(map(str.isupper, reply))


@checker
def uppercase(reply: str) -> bool:
    """Letters, and all of them capitals."""
    return any(map(str.isupper, reply)) and not any(map(str.islower, reply))


@checker
def capital_words(reply: str, *, low: Times = 0, high: Times | None = None) -> bool:
    """From ``low`` to ``high`` words of two or more letters written in capitals only."""
    return within(sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in words(reply)), low, high)


@checker
def no_commas(reply: str) -> bool:
    """No comma."""
    return "," not in reply


@checker
def no_exclamations(reply: str) -> bool:
    """No exclamation mark."""
    return "!" not in reply


@checker
def exclamation(reply: str) -> bool:
    """Ends with an exclamation mark; quotation marks and brackets may close after it."""
    return reply.rstrip(_CLOSING).endswith("!")


@checker
def question(reply: str) -> bool:
    """Ends with a question mark; quotation marks and brackets may close after it."""
    return reply.rstrip(_CLOSING).endswith("?")


@checker
def contains_number(reply: str) -> bool:
    """At least one digit."""
    return any(map(str.isdecimal, reply))


@checker
def no_digits(reply: str) -> bool:
    """No digit."""
    return not any(map(str.isdecimal, reply))


@checker
def letter_frequency(reply: str, *, letter: Letter, low: Times = 0, high: Times | None = None) -> bool:
    """One letter, in any case, from ``low`` to ``high`` times; ``high: 0`` avoids it."""
    return within(reply.lower().count(letter.lower()), low, high)


@checker
def quotation(reply: str) -> bool:
    """The whole reply between double quotation marks, straight or curly, with none inside."""
    return re.fullmatch(r'"[^"]+"|“[^“”]+”', reply.strip()) is not None


@checker
def parenthesis(reply: str) -> bool:
    """A remark (in round brackets)."""
    return re.search(r"\([^()]*\w[^()]*\)", reply) is not None


@checker
def emoji(reply: str) -> bool:
    """At least one emoji: a character of the Unicode category "Symbol, other" beyond signs such as ° © ™."""
    return any(character >= "\u2300" and unicodedata.category(character) == "So" for character in reply)
