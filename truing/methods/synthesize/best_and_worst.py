"""Pairs from the best and the worst of a pool of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from annotated_types import Ge

from truing.core.evidence import Pair
from truing.core.method import method
from truing.core.policy import Chat, Draw
from truing.methods.synthesize._family import Synthesis, best_and_worst


@method(paper="arXiv:2406.00832", dial="draws", neutral={"draws": 0})
class BestAndWorst(Synthesis):
    """Pairs the best draw of a prompt with its worst, the second best with the second worst, and so on.

    Draws of one score teach nothing against each other and are never paired. Of equal scores the shorter reply
    counts as neither better nor worse: the order of drawing decides.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"pairs"})
    pairs_per_prompt: Annotated[int, Ge(1)] = 2

    def propose(self, chat: Chat, draws: Sequence[Draw], scores: Sequence[float]) -> list[Pair]:
        return best_and_worst(chat, draws, scores, self.pairs_per_prompt)
