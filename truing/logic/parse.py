"""Formulas as people write them, read by recursive descent: a formula is input and is never evaluated as code.

From the loosest to the tightest: ``<->``, ``->`` (to the right), ``|``, ``xor``, ``&``, ``~``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from truing.core.errors import InputError, bad, did_you_mean
from truing.logic.worlds import ATOMS, FALSE, TRUE, Proposition, atom

SPELLINGS = {
    "<->": "<-> <=> ↔ ⇔ ≡",
    "->": "-> => → ⇒",
    "|": "| || ∨ or",
    "xor": "xor ^ ⊕ ⊻",
    "&": "& && ∧ and",
    "~": "~ ! ¬ not",
    "(": "(",
    ")": ")",
    "true": "true ⊤",
    "false": "false ⊥",
    "over": "over",
    "given": "given",
    "either": "either",
}
"""What stands for each sign."""
SIGNS = {spelling: sign for sign, spellings in SPELLINGS.items() for spelling in spellings.split()}
TOKEN = re.compile("|".join([r"\w+", *(re.escape(s) for s in sorted(SIGNS, key=len, reverse=True) if not s.isalpha())]))
DEEPEST = 50
"""Brackets within brackets beyond which nobody can have meant it, and the stack would end before the formula does."""
CONSTANTS = {"true": TRUE, "false": FALSE}


@dataclass
class Reader:
    """Where reading a text has come to.

    Attributes:
        text: the whole of it.
        tokens: signs and atoms with the columns at which they begin, from 1.
        place: the number of the next token.
    """

    text: str
    tokens: list[tuple[str, int]] = field(init=False)
    place: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        self.tokens, at = [], 0
        while rest := self.text[at:].lstrip():
            at = len(self.text) - len(rest)
            found = TOKEN.match(rest)
            word = found.group() if found else rest[0]
            if word not in SIGNS and word not in ATOMS:
                raise self.fault(at + 1, f"{word!r} is no proposition and no sign", _mend(word))
            self.tokens.append((SIGNS.get(word, word), at + 1))
            at += len(word)

    def fault(self, column: int, fact: str, mend: str) -> InputError:
        """An error that tells the column."""
        return bad(f"column {column} of {self.text!r}", fact, mend)

    @property
    def next(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[self.place][0] if self.place < len(self.tokens) else ""

    def unexpected(self, wanted: str, mend: str) -> InputError:
        """The next token is none of those that may stand here."""
        if not self.next:
            return self.fault(len(self.text) + 1, f"it ends where {wanted} should stand", mend)
        return self.fault(self.tokens[self.place][1], f"{self.next!r} stands where {wanted} should", mend)

    def passed(self, sign: str) -> bool:
        """Whether the next token is this sign, which is then behind."""
        found = self.next == sign
        self.place += found
        return found

    def end(self, mend: str) -> None:
        """Nothing may be left.

        Raises:
            InputError: something is.
        """
        if self.next:
            raise self.unexpected("a sign or the end", mend)

    def formula(self) -> Proposition:
        """One formula, as far as it goes."""
        return self._equal()

    def _chain(self, sign: str, part: Callable[[], Proposition]) -> list[Proposition]:
        parts = [part()]
        while self.passed(sign):
            parts.append(part())
        return parts

    def _equal(self) -> Proposition:
        first, *others = self._chain("<->", self._implied)
        for other in others:
            first = ~(first ^ other)
        return first

    def _implied(self) -> Proposition:
        *reasons, last = self._chain("->", self._any)
        for reason in reversed(reasons):
            last |= ~reason
        return last

    def _any(self) -> Proposition:
        first, *others = self._chain("|", self._odd)
        for other in others:
            first |= other
        return first

    def _odd(self) -> Proposition:
        first, *others = self._chain("xor", self._all)
        for other in others:
            first ^= other
        return first

    def _all(self) -> Proposition:
        first, *others = self._chain("&", self._single)
        for other in others:
            first &= other
        return first

    def _single(self) -> Proposition:
        negated = False
        while self.passed("~"):
            negated = not negated
        found = self._plain()
        return ~found if negated else found

    def _plain(self) -> Proposition:
        word = self.next
        if word in ATOMS or word in CONSTANTS:
            self.place += 1
            return CONSTANTS[word] if word in CONSTANTS else atom(word)
        if word != "(":
            raise self.unexpected("a proposition", f"Write one of {', '.join(ATOMS)}, 'true', 'false' or a bracket.")
        opened = self.tokens[self.place][1]
        self.place, self.depth = self.place + 1, self.depth + 1
        if self.depth > DEEPEST:
            raise self.fault(opened, f"more than {DEEPEST} brackets within each other", "Take some away.")
        found = self.formula()
        if not self.passed(")"):
            raise self.unexpected("a sign", f"Close the bracket of column {opened}, or join what follows by a sign.")
        self.depth -= 1
        return found


def _mend(word: str) -> str:
    if word[0].isalpha():
        return did_you_mean(word, {*ATOMS, *(sign for sign in SIGNS if sign.isalpha())})
    return "Signs are ~ & xor | -> <-> and brackets."


def read_proposition(text: str) -> Proposition:
    """A formula over the atoms, as what it says.

    Example:
        >>> read_proposition("L -> W") == read_proposition("¬L ∨ W")
        True

    Raises:
        InputError: it cannot be read; with the column.
    """
    reader = Reader(text)
    found = reader.formula()
    reader.end("Join propositions by a sign.")
    return found
