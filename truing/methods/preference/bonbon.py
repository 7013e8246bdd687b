"""BoNBoN: one draw that is like the best of n."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod


def bonbon_loss(pairs: PairLogps, *, alpha: float, n: int) -> torch.Tensor:
    """Imitates the best of n draws, and regresses its margin over the worst. Gui et al. 2024, arXiv:2406.00832.

    ``-alpha S_w + (1 - alpha) (m - (n - 1) H_{n-1})^2``, ``H`` the harmonic numbers: IPO with the beta at which its
    target is the margin that the best-of-n distribution itself has on average. The gradient is
    ``-alpha + 2 (1 - alpha) (m - target)`` on the chosen sum and ``-2 (1 - alpha) (m - target)`` on the rejected one.
    The imitation is a sum over tokens, in nats, as the target is. The released code never switches the squared term on.

    Args:
        pairs: log-probabilities of the best and the worst of n draws from the base, each summed over tokens, ``(B,)``,
            nats.
        alpha: weight of the imitation, in [0, 1].
        n: how many draws, >= 2.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return -alpha * pairs.chosen + (1 - alpha) * (pairs.margin - gap(n)).square()


def gap(n: int) -> float:
    """``E log(best_n / base)(best) - log(best_n / base)(worst)`` over n draws, ``(n - 1) H_{n-1}``, nats.

    Example:
        >>> gap(2), round(1 / (2 * gap(8)), 10)
        (1.0, 0.0275482094)
    """
    return (n - 1) * sum(1 / k for k in range(1, n))


@method(paper="arXiv:2406.00832", dial="alpha", neutral={"max_steps": 0})
class BoNBoN(PreferenceMethod):
    """Trains on the best and the worst of n of the base's own draws until one draw is like the best of n.

    Attributes:
        n: of how many draws the pairs are the best and the worst; the same as in synthesize/best_and_worst.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.005
    n: Annotated[int, Ge(2)] = 8

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return bonbon_loss(pairs, alpha=self.alpha, n=self.n)
