"""Ranked lists from a pool of draws."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from truing.core.evidence import Ranked
from truing.core.method import method
from truing.core.policy import Chat, Draw
from truing.methods.synthesize._family import Synthesis, said


@method(paper="arXiv:2304.05302", dial="draws", neutral={"draws": 0})
class RankedDraws(Synthesis):
    """Makes one list of all draws of a prompt, each with its score.

    A reply that was drawn several times stands in the list once, with its mean score; so lists differ in length. A
    prompt whose replies all score alike, or are all the same, gives none.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"lists"})

    def propose(self, chat: Chat, draws: Sequence[Draw], scores: Sequence[float]) -> list[Ranked]:
        first: dict[object, Draw] = {}
        judged: dict[object, list[float]] = {}
        for draw, score in zip(draws, scores, strict=True):
            first.setdefault(said(draw), draw)
            judged.setdefault(said(draw), []).append(score)
        means = tuple(fmean(found) for found in judged.values())
        return [Ranked(chat, tuple(first.values()), means)] if len(set(means)) > 1 else []
