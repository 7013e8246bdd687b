"""From a source to typed rows with their ledger and their digest."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, bad
from truing.core.evidence import Contrast, Demo, Pair, Ranked, Rating
from truing.core.policy import Chat, Reply
from truing.data.contract import Fitted, Ledger, Measurer, Verdict, fit
from truing.data.lines import Row
from truing.data.reasons import Refused
from truing.data.shapes import NEEDS, Item, Kind, Shaped, shape
from truing.data.sources import Source, rows
from truing.data.views import Selection, Store

BATCH = 64
"""Rows that are measured together."""
IN_MEMORY = 64 << 20
"""Canonical bytes of rows that are held in memory; what is larger goes to a file."""


@dataclass(frozen=True)
class Loaded:
    """Rows that can be used, and the account of those that cannot.

    Attributes:
        kind: which field of the evidence they are for.
        rows: a sequence that can be indexed and iterated again and again; large ones are a view of a file.
        ledger: what became of every row of the source.
        digest: SHA-256 of the rows, hexadecimal: equal rows in equal order, equal digest, whatever file they came from.
    """

    kind: Kind
    rows: Sequence[Any]
    ledger: Ledger
    digest: str

    def at_least(self, count: int = 1) -> Loaded:
        """This, where it has that many rows.

        Raises:
            InputError: it has fewer; every reason for refusing a row is among the faults.
        """
        if len(self.rows) >= count:
            return self
        place, ledger = self.ledger.source, self.ledger
        fact = f"{len(self.rows)} usable {self.kind} of {ledger.read} rows read, and {count} needed"
        raise InputError(Fault(place, fact), *(Fault(place, reason) for reason in ledger.refusals()))


def load(
    kind: Kind,
    source: object,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    measurer: Measurer | None = None,
    cache: Path | None = None,
    in_memory: int = IN_MEMORY,
    place: str = "data",
) -> Loaded:
    """Read a source as rows of one kind, strictly: each row is kept, repaired, shortened or refused, and counted.

    Args:
        kind: ``pairs``, ``lists``, ``demos``, ``prompts``, ``ratings``, ``contrasts`` or ``texts``.
        source: a path, a Hub name, Python objects, or a mapping (see :class:`Source`).
        limit: at most this many rows of the source are kept; over the mapping's own.
        max_length: most tokens of a prompt with its longest reply; over the mapping's own.
        measurer: counts tokens; without one, nothing is measured, and the ledger says so.
        cache: where rows beyond ``in_memory`` are kept; None is a temporary folder that lives as long as they do.
        in_memory: most bytes of rows, as canonical JSON, to hold in memory.
        place: where the source stands in a recipe, for faults.

    Raises:
        InputError: the source cannot be read or the settings make no sense. A bad row is never an error.
    """
    if kind not in NEEDS:
        raise bad(place, f"no such kind of rows: {kind!r}", f"Known: {', '.join(NEEDS)}.")
    spec = Source.of(source, place, limit=limit, max_length=max_length)
    if spec.max_length is not None and measurer is not None and kind in ("contrasts", "texts"):
        raise bad(place, f"max_length is not for {kind}", "Leave it out.")
    measured = spec.max_length is not None and measurer is not None
    ledger = Ledger(kind=kind, source=spec.label, measured=measured)
    store = Store(cache, in_memory)
    try:
        for row, found in _judged(kind, spec, measurer):
            if found is None:
                ledger.elsewhere += 1
            elif isinstance(found, Verdict):
                ledger.add(row.where, found)
            else:
                items, verdict, layout = found
                for item in items:
                    store.add(item)
                ledger.add(row.where, verdict, layout)
                if ledger.usable == spec.limit:
                    ledger.stopped = True
                    break
    except BaseException:
        store.abandon()
        raise
    digest = store.digest
    return Loaded(kind, store.close(), ledger, digest)


Usable = tuple[tuple[Item, ...], Verdict, str]


def _judged(kind: Kind, spec: Source, measurer: Measurer | None) -> Iterator[tuple[Row, Usable | Verdict | None]]:
    """Every row with what can be used of it, the verdict that refuses it, or None where it is on the other side."""
    source = _shaped(kind, spec)
    while batch := list(islice(source, BATCH)):
        usable = [shaped for _, shaped in batch if isinstance(shaped, Shaped)]
        if spec.max_length is not None and measurer is not None:
            verdicts = iter(_measured(usable, spec, measurer))
        else:
            verdicts = iter([Fitted((), Verdict("kept"))] * len(usable))
        for row, shaped in batch:
            yield row, _settled(shaped, next(verdicts)) if isinstance(shaped, Shaped) else shaped


def _shaped(kind: Kind, spec: Source) -> Iterator[tuple[Row, Shaped | Verdict | None]]:
    for row in rows(spec):
        if isinstance(row.value, Fault):
            yield row, Verdict("refused", row.value.fact, row.value.mend)
            continue
        try:
            shaped = shape(kind, row.value, strip=spec.whitespace == "strip")
        except Refused as refused:
            yield row, Verdict("refused", refused.reason, refused.detail)
            continue
        if spec.hold_out and held_out(shaped.items[0], spec.hold_out) != (spec.side == "held_out"):
            yield row, None
        else:
            yield row, shaped


def _measured(usable: Sequence[Shaped], spec: Source, measurer: Measurer) -> list[Fitted]:
    chats = [prompt_of(shaped.items[0]) for shaped in usable]
    replies = [[reply for item in shaped.items for reply in _replies(item)] for shaped in usable]
    shorten = spec.overlong == "shorten_prompt"
    return fit(chats, replies, measurer=measurer, max_length=spec.max_length or 0, shorten=shorten)


def _settled(shaped: Shaped, fitted: Fitted) -> Usable | Verdict:
    verdict = fitted.verdict
    if verdict.status == "refused":
        return verdict
    items = shaped.items
    if verdict.status == "shortened":
        items = tuple(_with_prompt(item, fitted.chat) for item in items)
    if shaped.repairs:
        status = "repaired" if verdict.status == "kept" else verdict.status
        verdict = replace(verdict, status=status, repairs=shaped.repairs)
    return items, verdict, shaped.shape


def prompt_of(item: Item) -> Chat:
    """The prompt of a row; the positive side of a contrast; a text has none."""
    match item:
        case Pair() | Ranked() | Demo() | Rating():
            return item.prompt
        case Contrast():
            return item.positive
        case str():
            return ()
        case _:
            return item


def _replies(item: Item) -> tuple[Reply, ...]:
    match item:
        case Pair():
            return item.chosen, item.rejected
        case Ranked():
            return item.replies
        case Demo() | Rating():
            return (item.reply,)
        case _:
            return ()


def _with_prompt(item: Item, chat: Chat) -> Item:
    return replace(item, prompt=chat) if isinstance(item, Pair | Ranked | Demo | Rating) else chat


def held_out(item: Item, share: float) -> bool:
    """Whether a row is among the ``share`` of prompts held out: only the text of its prompt decides.

    So rows of one prompt are always on one side, in any file, order or kind.
    """
    key = [(turn.role, turn.content) for turn in prompt_of(item)] or item
    start = hashlib.sha256(json.dumps(key).encode()).digest()[:8]
    return int.from_bytes(start, "big") < share * 2.0**64


def divide(items: Sequence[Any], share: float) -> tuple[Sequence[Any], Sequence[Any]]:
    """Rows as (the rest, the ``share`` held out), by :func:`held_out`; views, in order, nothing is copied."""
    sides = array("Q"), array("Q")
    for number, item in enumerate(items):
        sides[held_out(item, share)].append(number)
    return Selection(items, sides[0]), Selection(items, sides[1])
