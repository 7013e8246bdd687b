"""Asking every arm the same prompts, from as few draws as will do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from truing.core.method import find
from truing.core.policy import Policy
from truing.core.recipe import Point, Recipe
from truing.core.rng import Rng
from truing.core.run import Log
from truing.engine.cache import draws
from truing.methods.rerank._family import Reranked, RerankMethod
from truing.pipeline.inputs import Inputs
from truing.probes.pool import Pool

BASE = Point("base", "base", "base", ())
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


@dataclass(frozen=True)
class Asking:
    """How the arms of a recipe are asked.

    A reranking arm shares the pool of the policy behind it. Recipe and arm decide the stream and the number of draws,
    and not what ran before, so arms can be asked in any order and in different places.
    """

    recipe: Recipe
    inputs: Inputs
    cache: Path
    log: Log
    passages: int = 24

    @property
    def on_policy(self) -> bool:
        """Whether draws come from the policy itself, neither tempered nor truncated."""
        s = self.recipe.sampling
        return s.temperature == 1 and s.top_p == 1 and s.top_k == 0 and s.min_p == 0

    def alike(self, point: Point) -> list[Point]:
        """The points with the same policy behind them as this one, itself included, in the recipe's order."""
        wanted = self._behind(point)
        return [other for other in (BASE, *self.recipe.points) if self._behind(other) == wanted]

    def _behind(self, point: Point) -> str:
        """What makes the policy that an arm draws from: its steps that give one, less a last one that reranks."""
        steps = (*self.recipe.shared, *point.steps) if point is not BASE else ()
        if steps and _reranks(steps[-1].method):
            steps = steps[:-1]
        made = [[step.method, step.settings] for step in steps if issubclass(find(step.method).card.gives, Policy)]
        return json.dumps([made, dict(point.donors) if made else {}], sort_keys=True, default=str)

    def needed(self, point: Point) -> int:
        """Draws a prompt: enough that a reranker's best and an opponent come from one pool."""
        lasts = [other.steps[-1] for other in self.alike(point) if other.steps]
        widest = max((int(getattr(last.build(), "n", 0)) for last in lasts if _reranks(last.method)), default=0)
        return max(int(self.recipe.evaluate["draws"]), widest + 1 if widest else 0)

    def ask(self, point: Point, policy: Policy, base: Pool | None) -> Pool:
        """The pool of an arm: the base's where its draws are the base's own, else one that is drawn."""
        behind, choose = (policy.base, Choice(policy.method)) if isinstance(policy, Reranked) else (policy, None)
        if base is not None and base.source == behind.fingerprint:
            width = len(base.draws[0]) if base.draws else 0
            if choose is None or width > choose.n:
                return Pool(point.name, base.source, base.chats, base.draws, base.scores, choose)
        chats, n = list(self.inputs.prompts), self.needed(point)
        # Arms are drawn independently, but for those with one policy behind them: they share its draws.
        stream = Rng(self.recipe.seed).child("evaluate", self.alike(point)[0].name)
        made = (
            draws(behind, chats, n=n, sampling=self.recipe.sampling, rng=stream, cache=self.cache, log=self.log)
            if chats
            else []
        )
        judge = self.inputs.evidence.judge
        scores = np.zeros((len(chats), n))
        if judge is not None and chats and not judge.pairwise:
            flat = [(chat, draw.text) for chat, row in zip(chats, made, strict=True) for draw in row]
            scores = np.array(judge.score([c for c, _ in flat], [t for _, t in flat]), dtype=float).reshape(-1, n)
        return Pool(point.name, behind.fingerprint, chats, made, scores, choose)

    def samples(self, pools: Mapping[str, Pool]) -> list[dict[str, Any]]:
        """For the report: some prompts with the reply of every arm, in the order of ``pools``."""
        return [self._sample(i, list(pools.values())) for i in range(len(self.inputs.prompts[:SHOWN]))]

    def _sample(self, i: int, pools: Sequence[Pool]) -> dict[str, Any]:
        replies = []
        for pool in pools:
            # A reranker shows the draw that it gives back most often, every other arm its first.
            at = int(np.argmax(pool.choose(pool.scores[i]))) if pool.choose is not None else 0
            draw = pool.draws[i][at]
            score = float(pool.scores[i][at]) if self.inputs.evidence.judge is not None else None
            replies.append({"arm": pool.arm, "text": draw.text, "score": score, "finish": draw.finish})
        return {"chat": [{"role": m.role, "content": m.content} for m in self.inputs.prompts[i]], "replies": replies}


def tokens_per_reply(pool: Pool) -> float | None:
    """Tokens generated for one reply that is given back."""
    lengths = [len(draw.token_ids) for row in pool.draws for draw in row]
    times = getattr(pool.choose, "n", 1) if pool.choose is not None else 1
    return float(np.mean(lengths)) * times if lengths and any(lengths) else None


def _reranks(method: str) -> bool:
    return method.startswith("rerank/")
