"""Reranking: a member says how likely each draw of a pool is to be the one given back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from truing.core.artefact import save_wrapped
from truing.core.errors import bad
from truing.core.evidence import Evidence, Judge
from truing.core.lazy import np
from truing.core.method import Method
from truing.core.policy import Chat, Draw, Policy, Sampling
from truing.core.rng import Rng
from truing.core.run import Run
from truing.engine.cache import digest

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RerankMethod(Method[Policy, Policy]):
    """Draws ``n`` replies and gives one of them back."""

    reads: ClassVar[frozenset[str]] = frozenset({"judge"})
    n: Annotated[int, Ge(1)] = 8

    @abstractmethod
    def weights(self, scores: Array) -> Array:
        """From the ``(N,)`` scores of a pool, ``N >= n``, to the probabilities ``(N,)`` that each of its draws is the
        one given back when ``n`` of the pool are drawn at random without replacement.

        With ``N = n`` it is the choice itself; with a larger pool every measure of the method is a U-statistic.
        """

    def __call__(self, base: Policy, evidence: Evidence, run: Run, /) -> Policy:
        if self.n == 1:
            return base
        if evidence.judge is None:
            raise bad(self.card.name, "needs a judge", "Name one in the recipe, e.g. 'judge: constraints'.")
        return Reranked(base, self, evidence.judge)


class Reranked(Policy):
    """A policy that draws, judges and chooses. Its own density has no cheap form, so it only answers."""

    def __init__(self, base: Policy, method: RerankMethod, judge: Judge) -> None:
        self.base, self.method, self.judge = base, method, judge

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        width = self.method.n
        pools = self.base.sample(chats, n=n * width, sampling=sampling, rng=rng)
        flat = [(chat, draw.text) for chat, pool in zip(chats, pools, strict=True) for draw in pool]
        scores = np.array(self.judge.score([c for c, _ in flat], [t for _, t in flat])).reshape(-1, n, width)
        out = []
        for i, (chat, pool) in enumerate(zip(chats, pools, strict=True)):
            # Named by the chat, not by its place in the call: ties are broken alike whoever else is asked.
            stream = rng.child("rerank", digest([[turn.role, turn.content] for turn in chat]))
            chosen = []
            for k in range(n):
                odds = self.method.weights(scores[i, k])
                at = stream.child(k).numpy().choice(width, p=odds)
                chosen.append(pool[k * width + int(at)])
            out.append(chosen)
        return out

    def save(self, folder: Path) -> None:
        save_wrapped(folder, self.method, self.base, judge=self.judge)

    @property
    def fingerprint(self) -> str:
        return f"{self.method}/{self.judge.name}/{self.base.fingerprint}"
