"""Errors that tell place, fact and mend.

Two kinds reach a user: :class:`InputError` (what was asked for cannot be done as asked; exit code 2)
and :class:`RunError` (it began and could not be finished; exit code 1).
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
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


def differences(before: object, now: object, place: str = "") -> list[str]:
    """Where two plain values differ, each place with both values.

    Example:
        >>> differences({"seed": 1, "arms": {"a": [1, 2]}}, {"seed": 1, "arms": {"a": [1, 3]}})
        ['arms.a[1] was 2 and is 3']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(key for key in now if key not in before)]
        pairs = [(f"{place}.{key}".lstrip("."), before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(before) == len(now):
        pairs = [(f"{place}[{i}]", *both) for i, both in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{place} was {reprlib.repr(before)} and is {reprlib.repr(now)}"]
    return [line for where, old, new in pairs for line in differences(old, new, where)]
