"""Synthesis: a member turns the judged draws of one prompt into evidence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Gt

from truing.core.errors import bad
from truing.core.evidence import Evidence, Pair, Ranked
from truing.core.method import Method
from truing.core.policy import Chat, Draw, Policy, Sampling
from truing.core.run import Run
from truing.engine.cache import draws


class Scoring(Protocol):
    """Says how good draws are."""

    def __call__(self, chats: Sequence[Chat], draws: Sequence[Draw], /) -> Sequence[float]:
        """A number for each draw to each chat; higher is better."""


@dataclass(frozen=True, kw_only=True)
class Drawing(ABC):
    """Draws from the base, has the draws scored, and makes the field that a member writes. Replies stay what was drawn.

    Attributes:
        draws: replies to each prompt; 0 makes nothing.
        max_new_tokens: the longest reply, tokens.
        temperature: that it is drawn at.
        skip_prompts: how many prompts at the start are left out, so that rounds can have prompts of their own.
        max_prompts: how many prompts are taken from there on; 0 is all.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    draws: Annotated[int, Ge(0)] = 8
    max_new_tokens: Annotated[int, Ge(1)] = 64
    temperature: Annotated[float, Gt(0)] = 1.0
    skip_prompts: Annotated[int, Ge(0)] = 0
    max_prompts: Annotated[int, Ge(0)] = 0

    @abstractmethod
    def propose(self, chat: Chat, draws: Sequence[Draw], scores: Sequence[float]) -> Sequence[Pair | Ranked]:
        """The evidence of one prompt, from its draws and their scores; none where they teach nothing."""

    def made(self, base: Policy, prompts: Sequence[Chat], run: Run, score: Scoring, place: str) -> Evidence:
        """The evidence of all prompts that are to be asked.

        Raises:
            InputError: there are none.
        """
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        end = self.skip_prompts + self.max_prompts if self.max_prompts else None
        chats = list(prompts)[self.skip_prompts : end]
        if not chats:
            fact = f"has no prompts after leaving out {self.skip_prompts} of {len(prompts)}"
            raise bad(place, fact, "Give more prompts, or a smaller skip_prompts.")
        stream = run.rng("synthesize")
        pools = draws(base, chats, n=self.draws, sampling=sampling, rng=stream, cache=run.cache, log=run.log)
        flat = [(chat, draw) for chat, pool in zip(chats, pools, strict=True) for draw in pool]
        scores = score([chat for chat, _ in flat], [draw for _, draw in flat])
        (kind,), made = self.writes, list[Pair | Ranked]()
        for i, (chat, pool) in enumerate(zip(chats, pools, strict=True)):
            made += self.propose(chat, pool, scores[i * self.draws : (i + 1) * self.draws])
        run.log.say(f"  {len(made)} {kind} from {len(flat)} draws to {len(chats)} prompts")
        if not made:
            raise bad(place, "no prompt has both better and worse draws", "Draw more, or change who scores them.")
        found: dict[str, Any] = {kind: tuple(made)}
        return Evidence(**found)


@dataclass(frozen=True, kw_only=True)
class Synthesis(Drawing, Method[Policy, Evidence]):
    """Draws from the base and asks the judge."""

    reads: ClassVar[frozenset[str]] = frozenset({"prompts", "judge"})

    def __call__(self, base: Policy, evidence: Evidence, run: Run, /) -> Evidence:
        if self.draws == 0:
            return Evidence()
        if (judge := evidence.judge) is None:
            raise bad(self.card.name, "needs a judge", "Name one in the recipe, e.g. 'judge: constraints'.")

        def score(chats: Sequence[Chat], drawn: Sequence[Draw], /) -> Sequence[float]:
            return judge.score(chats, [draw.text for draw in drawn])

        return self.made(base, evidence.prompts, run, score, self.card.name)


def best_and_worst(chat: Chat, draws: Sequence[Draw], scores: Sequence[float], count: int) -> list[Pair]:
    """The best draw with the worst, the second best with the second worst, and so on, ``count`` pairs at most.

    Draws of one score teach nothing against each other and are never paired.
    """
    order = sorted(range(len(draws)), key=lambda i: (-scores[i], i))
    ends = [(order[k], order[-1 - k]) for k in range(min(count, len(order) // 2))]
    return [
        Pair(chat, draws[best], draws[worst], margin=scores[best] - scores[worst])
        for best, worst in ends
        if scores[best] > scores[worst] and said(draws[best]) != said(draws[worst])
    ]


def said(draw: Draw) -> object:
    """What tells two draws apart; an endpoint's have no tokens."""
    return draw.token_ids or draw.text
