"""Errors that tell place, fact and mend.

Two kinds reach a user: :class:`InputError` (what was asked for cannot be done as asked; exit code 2)
and :class:`RunError` (it began and could not be finished; exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong with an input.

    Attributes:
        place: where it stands, e.g. ``arms.dpo[0]`` or ``pairs.jsonl:17``.
        fact: what is wrong there.
        mend: what to do about it; may be empty where the fact says it.
    """

    place: str
    fact: str
    mend: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.fact}" if self.place else self.fact
        text = text if text.endswith((".", "?", "!")) else text + "."
        return f"{text} {self.mend}".rstrip()


class TruingError(Exception):
    """The root of every error that Truing raises on purpose."""


class InputError(TruingError):
    """Input that is refused before any work starts. Carries every fault that was found.

    Example:
        >>> raise InputError(Fault("recipe.yaml", "no model", "Add 'model: smollm2'."))
        Traceback (most recent call last):
        truing.core.errors.InputError: recipe.yaml: no model. Add 'model: smollm2'.
    """

    def __init__(self, *faults: Fault) -> None:
        self.faults: Sequence[Fault] = faults
        super().__init__("\n".join(str(fault) for fault in faults))

    def __reduce__(self) -> tuple[type[InputError], tuple[Fault, ...]]:
        """With its faults, also where another process raises it again."""
        return type(self), tuple(self.faults)


class RunError(TruingError):
    """Work that began and could not be finished: a NaN loss, an endpoint that went away, a full disk."""


def bad(place: str, fact: str, mend: str = "") -> InputError:
    """An :class:`InputError` of one fault."""
    return InputError(Fault(place, fact, mend))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'x'?`` for the closest known word, else the list of what is known."""
    names = sorted(known)
    tails = {name.rsplit("/", 1)[-1]: name for name in names}
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if not close and (tail := difflib.get_close_matches(word.rsplit("/", 1)[-1], list(tails), n=1, cutoff=0.6)):
        close = [tails[tail[0]]]
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}." if names else ""
