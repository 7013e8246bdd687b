"""The strict, counted contract: every row is kept, repaired, shortened or refused, and the ledger says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from truing.core.errors import Fault
from truing.core.policy import Chat, Reply
from truing.data.reasons import Reason

Status = Literal["kept", "repaired", "shortened", "refused"]
STATUSES: tuple[Status, ...] = ("kept", "repaired", "shortened", "refused")
SHOWN = 20
"""How many rows are named for each reason; all are counted."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of one prompt, up to and with the assistant header, and of each reply with its end of turn."""

    prompt: int
    replies: tuple[int, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest reply."""
        return self.prompt + max(self.replies, default=0)


class Measurer(Protocol):
    """Counts tokens as the model would see them. The model's side supplies it; one prompt pass a row."""

    def __call__(self, chats: Sequence[Chat], replies: Sequence[Sequence[Reply]], /) -> Sequence[Lengths | Fault]:
        """The lengths of each row, ``replies[i]`` being those to ``chats[i]`` (there may be none).

        A row that the template cannot carry (its tokens for the prompt are not a prefix of those with the reply) is a
        fault whose ``fact`` is the reason to refuse it under and whose ``mend`` says what to do.
        """


@dataclass(frozen=True)
class Verdict:
    """What became of one row.

    Attributes:
        status: the worst that happened to it.
        reason: why it was refused or shortened.
        detail: what is particular to this row.
        repairs: what was repaired in it.
        tokens_lost: how many tokens shortening took.
    """

    status: Status
    reason: str = ""
    detail: str = ""
    repairs: tuple[str, ...] = ()
    tokens_lost: int = 0

    @property
    def entries(self) -> Iterator[tuple[Status, str]]:
        """What to count it under."""
        yield from (("repaired", repair) for repair in self.repairs if self.status != "refused")
        if self.reason:
            yield self.status, self.reason


@dataclass
class Entry:
    """How many rows met one reason, which were the first, and what the first of them said."""

    count: int = 0
    rows: list[str] = field(default_factory=list)
    detail: str = ""


@dataclass
class Ledger:
    """Counts of what became of every row that was read. Its size does not grow with the data.

    Attributes:
        kind: pairs, demos ...
        source: what was read.
        statuses: rows by status; they add up to the rows read.
        entries: (status, reason) -> how many and which; a row may be under several repairs.
        shapes: usable rows by the layout they were read from.
        tokens_lost: by shortening, in all.
        elsewhere: rows on the other side of a hold-out; not part of ``statuses``.
        measured: whether rows were judged by their length in tokens.
        stopped: whether reading stopped at the limit, so that there may be more rows.
    """

    kind: str = ""
    source: str = ""
    statuses: Counter[str] = field(default_factory=Counter)
    entries: dict[tuple[Status, str], Entry] = field(default_factory=dict)
    shapes: Counter[str] = field(default_factory=Counter)
    tokens_lost: int = 0
    elsewhere: int = 0
    measured: bool = False
    stopped: bool = False

    def add(self, where: str, verdict: Verdict, shape: str = "") -> None:
        """Count one row, which stands at ``where``."""
        self.statuses[verdict.status] += 1
        self.tokens_lost += verdict.tokens_lost
        if shape and verdict.status != "refused":
            self.shapes[shape] += 1
        for key in verdict.entries:
            entry = self.entries.setdefault(key, Entry())
            if not entry.count:
                entry.detail = verdict.detail
            entry.count += 1
            if len(entry.rows) < SHOWN:
                entry.rows.append(where)

    @property
    def read(self) -> int:
        """Rows that were judged."""
        return self.statuses.total()

    @property
    def usable(self) -> int:
        """Rows that were not refused."""
        return self.read - self.statuses["refused"]

    def brief(self) -> str:
        """One line for a log: how many rows met which fate, and why any was refused."""
        counts: dict[str, int] = {"read": self.read, **{status: self.statuses[status] for status in STATUSES}}
        counts |= {"tokens lost": self.tokens_lost, "on the other side of the hold-out": self.elsewhere}
        line = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "read")
        return "; ".join([line, *self.refusals()])

    def refusals(self) -> list[str]:
        """Every reason for refusing with its count and its first rows, the commonest first."""
        found = [(entry, reason) for (status, reason), entry in self.entries.items() if status == "refused"]
        found.sort(key=lambda pair: -pair[0].count)
        return [f"{e.count} × {why}{f' ({e.detail})' if e.detail else ''}: row {_rows(e)}" for e, why in found]

    def table(self) -> list[tuple[str, str, str, str]]:
        """Rows for a terminal or a report: what became of them, why, how many, and which.

        One line a status that occurred, followed by one a reason. ``HEADER`` names the columns.
        """
        lines: list[tuple[str, str, str, str]] = []
        for status in STATUSES:
            inside = [(reason, entry) for (of, reason), entry in self.entries.items() if of == status]
            inside.sort(key=lambda pair: -pair[1].count)
            if not self.statuses[status] and not inside:
                continue
            lost = f"{self.tokens_lost} tokens lost" if status == "shortened" else ""
            lines.append((status, lost, str(self.statuses[status]), ""))
            for reason, entry in inside:
                why = f"{reason}: {entry.detail}" if entry.detail else reason
                lines.append(("", why, str(entry.count), _rows(entry)))
        return lines

    def to_json(self) -> dict[str, Any]:
        """All of it, for ``run.json``; equal ledgers give equal JSON."""
        return {
            "kind": self.kind,
            "source": self.source,
            "read": self.read,
            **{status: self.statuses[status] for status in STATUSES},
            "tokens_lost": self.tokens_lost,
            "elsewhere": self.elsewhere,
            "measured": self.measured,
            "stopped_at_limit": self.stopped,
            "shapes": dict(sorted(self.shapes.items())),
            "reasons": [
                {"status": status, "reason": reason, "count": e.count, "first_rows": list(e.rows), "detail": e.detail}
                for (status, reason), e in sorted(self.entries.items())
            ],
        }


HEADER = ("verdict", "reason", "rows", "which")


def _rows(entry: Entry) -> str:
    return ", ".join(entry.rows) + (" …" if entry.count > len(entry.rows) else "")


def shorter(chat: Chat) -> list[Chat]:
    """A chat without its oldest turns, least first: cut before each later user turn, the system turn kept.

    The last user turn and what follows it are in every one.
    """
    head = chat[:1] if chat and chat[0].role == "system" else ()
    starts = [number for number, turn in enumerate(chat) if turn.role == "user"]
    return [head + chat[start:] for start in starts[1:]]


@dataclass(frozen=True)
class Fitted:
    """The prompt that a row is used with, and what became of the row."""

    chat: Chat
    verdict: Verdict


def fit(
    chats: Sequence[Chat],
    replies: Sequence[Sequence[Reply]],
    *,
    measurer: Measurer,
    max_length: int,
    shorten: bool,
) -> list[Fitted]:
    """Judge some rows by their length in tokens: one call of the measurer for all, one more for each that is cut.

    Replies, the assistant header and the end of turn are never cut. What shortening takes is whole turns.

    Args:
        max_length: most tokens of a prompt with its longest reply.
        shorten: whether a prompt may lose its oldest turns; else the row is refused.
    """
    found = []
    for chat, lengths in zip(chats, measurer(chats, replies), strict=True):
        if isinstance(lengths, Fault):
            found.append(Fitted(chat, Verdict("refused", lengths.fact, lengths.mend)))
        elif lengths.longest > max_length:
            cuts = shorter(chat) if shorten else []
            found.append(_cut(chat, lengths, cuts, measurer, max_length))
        else:
            found.append(Fitted(chat, Verdict("kept")))
    return found


def _cut(chat: Chat, lengths: Lengths, cuts: list[Chat], measurer: Measurer, max_length: int) -> Fitted:
    room = max_length - max(lengths.replies, default=0)
    detail = f"{lengths.longest} tokens for {max_length}, the prompt alone {lengths.prompt}"
    for cut, found in zip(cuts, measurer(cuts, [()] * len(cuts)) if cuts else [], strict=True):
        if isinstance(found, Lengths) and found.prompt <= room:
            lost = lengths.prompt - found.prompt
            return Fitted(cut, Verdict("shortened", Reason.OLD_TURNS, tokens_lost=lost))
    return Fitted(chat, Verdict("refused", Reason.TOO_LONG, detail))
