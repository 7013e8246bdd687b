"""What a method learns from. An empty field is one that nobody provided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from truing.core.policy import Chat, Policy, Reply


@dataclass(frozen=True)
class Demo:
    """A prompt and the reply to imitate."""

    prompt: Chat
    reply: Reply


@dataclass(frozen=True)
class Pair:
    """A prompt, the better reply and the worse one. ``margin`` is a rating difference where one is known."""

    prompt: Chat
    chosen: Reply
    rejected: Reply
    margin: float | None = None


@dataclass(frozen=True)
class Ranked:
    """A prompt and replies with a score each: higher is better, equal is a tie. Their order says nothing."""

    prompt: Chat
    replies: tuple[Reply, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Rating:
    """A prompt, a reply and how good it is: a score, or 1.0 / 0.0 for a label."""

    prompt: Chat
    reply: Reply
    value: float


@dataclass(frozen=True)
class Contrast:
    """Two chats that differ in one concept."""

    positive: Chat
    negative: Chat


class Judge(ABC):
    """Says how good replies are. Higher is better.

    Attributes:
        name: for tables and figures.
        spec: what a recipe would write to get it again; None where nothing could.
        pairwise: whether it is asked which of two replies is better, and not for a number each.
    """

    name: str
    pairwise: bool = False
    spec: object = None

    @abstractmethod
    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        """A number for each reply to each chat; the scale is the judge's own."""

    def compare(self, chats: Sequence[Chat], left: Sequence[str], right: Sequence[str]) -> list[float]:
        """1 where the left reply is better, 0 where the right one is, 0.5 for a tie."""
        pairs = zip(self.score(chats, left), self.score(chats, right), strict=True)
        return [0.5 if a == b else float(a > b) for a, b in pairs]


@dataclass(frozen=True)
class Evidence:
    """Everything a method may read. Methods replace fields; they never write into them."""

    prompts: Sequence[Chat] = ()
    demos: Sequence[Demo] = ()
    pairs: Sequence[Pair] = ()
    lists: Sequence[Ranked] = ()
    ratings: Sequence[Rating] = ()
    contrasts: Sequence[Contrast] = ()
    principles: Sequence[str] = ()
    donors: Mapping[str, Policy] = field(default_factory=dict)
    judge: Judge | None = None

    @property
    def provided(self) -> frozenset[str]:
        """Names of the fields that somebody filled."""
        return frozenset(f.name for f in fields(self) if _filled(getattr(self, f.name)))

    def merged(self, newer: Evidence) -> Evidence:
        """This evidence with the fields that ``newer`` provides in place of its own."""
        return replace(self, **{name: getattr(newer, name) for name in newer.provided})


def _filled(value: object) -> bool:
    return value is not None and not (isinstance(value, Sequence | Mapping) and len(value) == 0)


FIELDS = frozenset(f.name for f in fields(Evidence))
