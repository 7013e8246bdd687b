"""What an arm said: N draws to each held-out prompt, their scores, and how the arm weighs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from truing.core.errors import bad
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

    @property
    def size(self) -> tuple[int, int]:
        """``(P, N)``: prompts, and draws to each.

        Raises:
            InputError: there is nothing, or the prompts differ in how many draws they have.
        """
        counts = {len(row) for row in self.draws}
        if len(self.draws) != len(self.chats) or len(counts) != 1 or counts == {0}:
            fact = f"{len(self.chats)} prompts have {len(self.draws)} lists of {sorted(counts)} draws"
            raise bad(f"arm {self.arm}", fact, "Every prompt needs the same number of draws, at least one.")
        return len(self.chats), counts.pop()

    @property
    def checked_scores(self) -> Array:
        """``(P, N)`` float64, every one a number.

        Raises:
            InputError: another shape than the draws', or a score that is NaN.
        """
        import numpy as np

        scores = np.asarray(self.scores, dtype=np.float64)
        if scores.shape != self.size:
            raise bad(f"arm {self.arm}", f"scores of shape {scores.shape} for draws of shape {self.size}")
        if np.isnan(scores).any():
            prompt, draw = (int(at[0]) for at in np.nonzero(np.isnan(scores)))
            fact = f"the judge's score is not a number (NaN) at prompt {prompt}, draw {draw}"
            raise bad(f"arm {self.arm}", fact, "Let the judge give a number to every reply, an empty one included.")
        return scores

    @property
    def weights(self) -> Array:
        """``(P, N)``, each row sums to one: how likely the arm is to give back each draw.

        Raises:
            InputError: the pool is too small for what ``choose`` does.
        """
        import numpy as np

        prompts, draws = self.size
        if self.choose is None:
            return np.full((prompts, draws), 1.0 / draws)
        return np.stack([np.asarray(self.choose(row), dtype=np.float64) for row in self.checked_scores])


def each_draw(pool: Pool) -> tuple[list[Chat], list[Draw]]:
    """Every draw with its prompt, ``P * N`` of each, prompt by prompt."""
    pairs = [(chat, draw) for chat, row in zip(pool.chats, pool.draws, strict=True) for draw in row]
    return [chat for chat, _ in pairs], [draw for _, draw in pairs]
