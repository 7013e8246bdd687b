"""Prompts that should be refused and prompts that should not, on which it is measured what an arm still declines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from annotated_types import Ge

from truing.core.errors import Fault, InputError, bad
from truing.core.method import coerce, field_faults
from truing.core.policy import Chat, Message, user
from truing.data.strict import every_row

LABELS = ("unsafe", "safe")


@dataclass(frozen=True)
class Asked:
    """A prompt and what is known of it.

    Attributes:
        unsafe: whether it should be refused.
        category: what it is about, or empty.
        chosen, rejected: replies that should and should not be given to it; None where there are none.
    """

    prompt: Chat
    unsafe: bool
    category: str = ""
    chosen: str | None = None
    rejected: str | None = None


@dataclass(frozen=True, kw_only=True)
class RefusalSettings:
    """How they are asked.

    Attributes:
        aligned: the model that drift is measured from, by name or folder; the comparison's base where it is empty.
        draws: replies to each prompt.
        temperature: of the draws; 0 is greedy, and then one is enough.
        max_new_tokens: the longest reply, tokens; refusals show in their first sentences.
    """

    aligned: str = ""
    draws: Annotated[int, Ge(1)] = 1
    temperature: Annotated[float, Ge(0)] = 0.0
    max_new_tokens: Annotated[int, Ge(1)] = 48


@dataclass(frozen=True)
class RefusalSet:
    """Prompts, how to ask them, and a hash of both."""

    asked: Sequence[Asked]
    settings: RefusalSettings
    digest: str

    def of(self, *, unsafe: bool) -> list[Asked]:
        """The prompts that should be refused, or the others, in order."""
        return [asked for asked in self.asked if asked.unsafe == unsafe]


def load_refusals(spec: object, place: str) -> RefusalSet:
    """Read prompts: a source of rows, or a mapping with ``source``, perhaps ``benign``, and :class:`RefusalSettings`.

    A row has ``prompt``, a text or turns with role and content, and perhaps ``label`` (``unsafe`` or ``safe``; by
    default what its source is of), ``category`` or ``type``, ``chosen`` and ``rejected`` (or ``target``): texts. No row
    is left out: a rate over other prompts is another rate.

    Raises:
        InputError: every fault of settings and rows at once.
    """
    given = dict(spec) if isinstance(spec, Mapping) else {"source": spec}
    sources = {label: given.pop(key, None) for label, key in (("unsafe", "source"), ("safe", "benign"))}
    faults = field_faults(RefusalSettings, given, place)
    if all(source is None for source in sources.values()):
        raise InputError(*faults, Fault(place, "names no source", "Add 'source: FILE', or 'benign: FILE'."))
    asked: list[Asked] = []
    for label, value in sources.items():
        if value is None:
            continue
        made, wrong = every_row(value, place, _row_faults, partial(_asked, label=label))
        asked += made
        faults += wrong
    if faults:
        raise InputError(*faults)
    if not asked:
        raise bad(place, "has no rows", "Give at least one prompt.")
    plain = [[[[t.role, t.content] for t in a.prompt], a.unsafe, a.category, a.chosen, a.rejected] for a in asked]
    told = json.dumps([plain, given], ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
    return RefusalSet(tuple(asked), RefusalSettings(**coerce(RefusalSettings, given)), digest)


def _asked(row: Mapping[str, Any], label: str) -> Asked:
    prompt = row["prompt"]
    chat = user(prompt) if isinstance(prompt, str) else tuple(Message(t["role"], t["content"]) for t in prompt)
    return Asked(
        chat,
        (row.get("label") or label) == "unsafe",
        row.get("category") or row.get("type") or "",
        row.get("chosen") or None,
        row.get("rejected") or row.get("target") or None,
    )


def _row_faults(row: Mapping[str, Any], place: str) -> list[Fault]:
    faults = []
    prompt = row.get("prompt")
    turns = prompt if isinstance(prompt, list | tuple) else ()
    if not (isinstance(prompt, str) and prompt.strip()) and not (turns and all(map(_turn, turns))):
        faults.append(Fault(place, f"'prompt' is {prompt!r}", "Give a text, or turns with role and content."))
    if row.get("label") not in (None, "", *LABELS):
        faults.append(Fault(place, f"'label' is {row['label']!r}", "Write 'unsafe' or 'safe', or leave it out."))
    for key in ("category", "type", "chosen", "rejected", "target"):
        if row.get(key) is not None and not isinstance(row[key], str):
            faults.append(Fault(place, f"{key!r} is {row[key]!r}", "Give a text, or leave it out."))
    return faults


def _turn(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))
