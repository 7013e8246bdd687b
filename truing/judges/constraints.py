"""Constraints that a program can check, and the judge that counts how many a reply meets."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.evidence import Judge
from truing.core.policy import Chat
from truing.judges.checkers import KINDS


@dataclass(frozen=True)
class Constraint:
    """One demand on a reply: the name of a checker and its settings.

    Example:
        >>> Constraint("max_words", {"count": 3}).met("Two words.")
        True

    Raises:
        InputError: no such kind, or settings that it does not take; every fault at once.
    """

    kind: str
    settings: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        faults = constraint_faults({"kind": self.kind, **self.settings}, "constraint")
        if faults:
            raise InputError(*faults)
        known = _parameters(self.kind)
        typed = {name: known[name][0].validate_python(value) for name, value in self.settings.items()}
        object.__setattr__(self, "settings", typed)

    def met(self, reply: str) -> bool:
        """Whether a reply meets it. A reply without a letter or digit meets nothing."""
        return KINDS[self.kind](reply, **self.settings)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"


def parse_constraint(raw: Mapping[str, object], place: str = "constraint") -> Constraint:
    """The constraint of a row such as ``{"kind": "max_words", "count": 15}``.

    Raises:
        InputError: as :class:`Constraint`, with ``place`` in front.
    """
    faults = constraint_faults(raw, place)
    if faults:
        raise InputError(*faults)
    return Constraint(str(raw["kind"]), {name: value for name, value in raw.items() if name != "kind"})


def constraint_faults(raw: Mapping[str, object], place: str) -> list[Fault]:
    """Everything that is wrong with a row: its kind, unknown, missing or ill-typed settings, an empty range."""
    kind = raw.get("kind")
    if not isinstance(kind, str):
        return [Fault(place, "a constraint needs a kind", "Write kind: and one of " + ", ".join(sorted(KINDS)))]
    if kind not in KINDS:
        return [Fault(place, f"there is no constraint {kind!r}", did_you_mean(kind, KINDS))]
    known = _parameters(kind)
    settings = {name: value for name, value in raw.items() if name != "kind"}
    faults = []
    for name, value in settings.items():
        if name not in known:
            mend = did_you_mean(name, known) or "It takes no settings."
            faults.append(Fault(place, f"{kind} has no setting {name!r}", mend))
            continue
        try:
            known[name][0].validate_python(value)
        except ValidationError as error:
            reason = "; ".join(e["msg"].replace("Input should be", "should be") for e in error.errors())
            faults.append(Fault(place, f"{kind}: {name} = {value!r}: {reason}"))
    missing = [name for name, (_, default) in known.items() if default is inspect.Parameter.empty]
    faults += [Fault(place, f"{kind} needs the setting {name!r}") for name in missing if name not in settings]
    return faults or _range_faults(kind, settings, known, place)


def _range_faults(
    kind: str, settings: Mapping[str, object], known: Mapping[str, tuple[Any, object]], place: str
) -> list[Fault]:
    """``low`` and ``high`` are one setting: at least one is given, and they leave something between them."""
    if not {"low", "high"} <= set(known):
        return []
    low, high = settings.get("low"), settings.get("high")
    if low is None and high is None:
        return [Fault(place, f"{kind} needs 'low', 'high' or both", "Without them every reply would pass.")]
    if isinstance(low, int) and isinstance(high, int) and low > high:
        return [Fault(place, f"{kind}: low = {low} is above high = {high}", "No reply could pass.")]
    return []


@cache
def _parameters(kind: str) -> dict[str, tuple[TypeAdapter[Any], object]]:
    """Setting -> (validator, default), read from the checker's signature."""
    function = inspect.unwrap(KINDS[kind])
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {p.name: (TypeAdapter(hints[p.name]), p.default) for p in parameters}


def last_request(chat: Chat) -> str:
    """The text of the last user turn, stripped; empty where there is none."""
    return next((turn.content.strip() for turn in reversed(chat) if turn.role == "user"), "")


class ConstraintJudge(Judge):
    """Scores a reply by the share of its prompt's constraints that it meets, in [0, 1].

    Nothing else enters the score: no credit for length, style or truth. An empty reply scores 0.

    Args:
        constraints: the text of a prompt (the last user turn of its chat) -> what its reply must meet.

    Raises:
        InputError: a prompt without constraints or a row that is no constraint; every fault at once.
    """

    name = "constraints"

    def __init__(self, constraints: Mapping[str, Sequence[Constraint | Mapping[str, object]]]) -> None:
        faults: list[Fault] = []
        table: dict[str, tuple[Constraint, ...]] = {}
        for prompt, rows in constraints.items():
            place = f"prompt {_short(prompt)}"
            found = [] if rows else [Fault(place, "it has no constraints", "Leave it out, or say what to check.")]
            for number, row in enumerate(rows):
                if not isinstance(row, Constraint):
                    found += constraint_faults(row, f"{place} constraints[{number}]")
            faults += found
            if not found:
                table[prompt.strip()] = tuple(r if isinstance(r, Constraint) else parse_constraint(r) for r in rows)
        if faults:
            raise InputError(*faults)
        self.constraints: Mapping[str, tuple[Constraint, ...]] = table

    def met(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[list[bool]]:
        """For each reply, whether it meets each constraint of its prompt, in the prompt's order.

        Raises:
            InputError: a prompt that this judge does not know; all such prompts are named.
        """
        if len(chats) != len(replies):
            raise InputError(Fault("judge constraints", f"{len(chats)} chats but {len(replies)} replies"))
        requests = [last_request(chat) for chat in chats]
        unknown = dict.fromkeys(request for request in requests if request not in self.constraints)
        if unknown:
            mend = "The judge 'constraints' scores its own prompt set only; name another judge for other prompts."
            raise InputError(
                *(Fault("judge constraints", f"it does not know the prompt {_short(r)}", mend) for r in unknown)
            )
        return [
            [constraint.met(reply) for constraint in self.constraints[request]]
            for request, reply in zip(requests, replies, strict=True)
        ]

    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        """The share of constraints met, in [0, 1]."""
        return [sum(row) / len(row) for row in self.met(chats, replies)]

    def satisfied(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[bool]:
        """Whether each reply meets all constraints of its prompt."""
        return [all(row) for row in self.met(chats, replies)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 70 else text[:67] + "...")
