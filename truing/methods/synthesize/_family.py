"""Synthesis: a member turns the judged draws of one prompt into evidence."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from truing.core.errors import bad
from truing.core.evidence import Evidence, Pair, Ranked
from truing.core.method import Method
from truing.core.policy import Chat, Draw, Policy, Sampling
from truing.core.run import Run
from truing.engine.cache import draws


@dataclass(frozen=True, kw_only=True)
class Synthesis(Method[Policy, Evidence]):
    """Draws from the base, asks the judge, and makes the field that a member writes. Replies stay what was drawn."""

    reads: ClassVar[frozenset[str]] = frozenset({"prompts", "judge"})
    draws: Annotated[int, Ge(0)] = 8
    max_new_tokens: Annotated[int, Ge(1)] = 64
    temperature: Annotated[float, Gt(0)] = 1.0

    @abstractmethod
    def propose(self, chat: Chat, draws: Sequence[Draw], scores: Sequence[float]) -> Sequence[Pair | Ranked]:
        """The evidence of one prompt, from its draws and their scores; none where they teach nothing."""

    def __call__(self, base: Policy, evidence: Evidence, run: Run, /) -> Evidence:
        if self.draws == 0:
            return Evidence()
        if evidence.judge is None:
            raise bad(self.card.name, "needs a judge", "Name one in the recipe, e.g. 'judge: constraints'.")
        sampling = Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)
        chats = list(evidence.prompts)
        stream = run.rng("synthesize")
        pools = draws(base, chats, n=self.draws, sampling=sampling, rng=stream, cache=run.cache, log=run.log)
        flat = [(chat, draw.text) for chat, pool in zip(chats, pools, strict=True) for draw in pool]
        scores = evidence.judge.score([chat for chat, _ in flat], [text for _, text in flat])
        (kind,), made = self.writes, list[Pair | Ranked]()
        for i, (chat, pool) in enumerate(zip(chats, pools, strict=True)):
            made += self.propose(chat, pool, scores[i * self.draws : (i + 1) * self.draws])
        run.log.say(f"  {len(made)} {kind} from {len(flat)} draws to {len(chats)} prompts")
        if not made:
            raise bad(self.card.name, "no prompt has both better and worse draws", "Draw more, or change the judge.")
        found: dict[str, Any] = {kind: tuple(made)}
        return Evidence(**found)


def said(draw: Draw) -> object:
    """What tells two draws apart; an endpoint's have no tokens."""
    return draw.token_ids or draw.text
