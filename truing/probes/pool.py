"""What an arm said: N draws to each held-out prompt, their scores, and how the arm weighs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truing.core.policy import Chat, Draw

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """The draws of one arm.

    A reranking arm draws nothing of its own: it shares its base's draws and weighs them. With ``choose``, the
    weight of a draw is the probability that the arm would give it back from a random subset of the pool (a
    U-statistic), so every measure below is the same weighted mean for every arm.

    Attributes:
        arm: the arm's name.
        source: what was drawn from; arms of one source hold the very same draws.
        chats: ``P`` held-out prompts.
        draws: ``P`` lists of ``N`` draws.
        scores: ``(P, N)``, the judge's.
        choose: from the ``(N,)`` scores of one prompt to ``(N,)`` weights that sum to one; None is uniform.
    """

    arm: str
    source: str
    chats: Sequence[Chat]
    draws: Sequence[Sequence[Draw]]
    scores: Array
    choose: Callable[[Array], Array] | None = None
