"""Asking every arm the same prompts, from as few draws as will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from truing.core.policy import Policy
from truing.core.recipe import Point, Recipe
from truing.core.rng import Rng
from truing.core.run import Log
from truing.engine.cache import draws
from truing.methods.rerank._family import Reranked, RerankMethod
from truing.pipeline.inputs import Inputs
from truing.probes.pool import Pool

SHOWN = 12  # prompts whose replies the report shows


@dataclass(frozen=True)
class Choice:
    """How a reranking method weighs a pool, as the probes ask for it."""

    method: RerankMethod

    @property
    def n(self) -> int:
        """Draws that it looks at."""
        return self.method.n

    def __call__(self, scores: Any) -> Any:
        """``(N,)`` scores to ``(N,)`` weights."""
        return self.method.weights(scores)


@dataclass
class Asking:
    """Pools of draws by arm. A reranking arm shares the pool of the policy behind it."""

    recipe: Recipe
    inputs: Inputs
    base: Policy
    cache: Path
    log: Log
    pools: dict[str, Pool] = field(default_factory=dict)
    passages: int = 24

    @property
    def on_policy(self) -> bool:
        """Whether draws come from the policy itself, neither tempered nor truncated."""
        s = self.recipe.sampling
        return s.temperature == 1 and s.top_p == 1 and s.top_k == 0 and s.min_p == 0

    def needed(self, arm: str) -> int:
        """Draws a prompt: enough that a reranker's best and an opponent come from one pool."""
        widest = 0
        for point in self.recipe.points:
            last = point.steps[-1] if point.steps else None
            # The base is the pool of every arm that only reranks; an arm that trains first has its own.
            asked = point.name == arm or (arm == "base" and len(point.steps) == 1)
            if asked and last is not None and last.method.startswith("rerank/"):
                widest = max(widest, int(getattr(last.build(), "n", 0)))
        return max(int(self.recipe.evaluate["draws"]), widest + 1 if widest else 0)

    def ask(self, arm: str, policy: Policy) -> Pool:
        """The pool of an arm, drawn once."""
        behind, choose = (policy.base, Choice(policy.method)) if isinstance(policy, Reranked) else (policy, None)
        known = next((pool for pool in self.pools.values() if pool.source == behind.fingerprint), None)
        if known is not None and (choose is None or len(known.draws[0] if known.draws else ()) > choose.n):
            pool = Pool(arm, known.source, known.chats, known.draws, known.scores, choose)
        else:
            pool = self._drawn(arm, behind, choose)
        self.pools[arm] = pool
        return pool

    def _drawn(self, arm: str, policy: Policy, choose: Callable[[Any], Any] | None) -> Pool:
        chats, n = list(self.inputs.prompts), self.needed(arm)
        stream = Rng(self.recipe.seed).child("evaluate", arm)  # arms are drawn independently
        made = (
            draws(policy, chats, n=n, sampling=self.recipe.sampling, rng=stream, cache=self.cache, log=self.log)
            if chats
            else []
        )
        judge = self.inputs.evidence.judge
        scores = np.zeros((len(chats), n))
        if judge is not None and chats and not judge.pairwise:
            flat = [(chat, draw.text) for chat, row in zip(chats, made, strict=True) for draw in row]
            scores = np.array(judge.score([c for c, _ in flat], [t for _, t in flat]), dtype=float).reshape(-1, n)
        return Pool(arm, policy.fingerprint, chats, made, scores, choose)

    def tokens_per_reply(self, pool: Pool) -> float | None:
        """Tokens generated for one reply that is given back."""
        lengths = [len(draw.token_ids) for row in pool.draws for draw in row]
        times = getattr(pool.choose, "n", 1) if pool.choose is not None else 1
        return float(np.mean(lengths)) * times if lengths and any(lengths) else None

    def samples(self, points: Sequence[Point]) -> list[dict[str, Any]]:
        """For the report: some prompts with the reply of every arm."""
        rows = []
        for i, chat in enumerate(list(self.inputs.prompts)[:SHOWN]):
            replies = []
            for point in points:
                pool = self.pools[point.name]
                # A reranker shows the draw that it gives back most often, every other arm its first.
                at = int(np.argmax(pool.choose(pool.scores[i]))) if pool.choose is not None else 0
                draw = pool.draws[i][at]
                score = float(pool.scores[i][at]) if self.inputs.evidence.judge is not None else None
                replies.append({"arm": point.name, "text": draw.text, "score": score, "finish": draw.finish})
            rows.append({"chat": [{"role": m.role, "content": m.content} for m in chat], "replies": replies})
        return rows
