"""Lists as a loss sees them: log-probabilities of all replies to a prompt under the policy and its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.lazy import torch


@dataclass(frozen=True)
class ListLogps:
    """Log-probabilities of the replies of ``B`` lists, each reply's summed over its tokens, nats.

    Lists may differ in length: ``K`` is that of the longest, and where a shorter one has no reply there are zeros.

    Attributes:
        policy: ``(B, K)`` under the policy that is trained, with gradient.
        base: ``(B, K)`` under its base.
        scores: ``(B, K)``, how good each reply is said to be; higher is better, on any scale. In double precision, so
            that rounding ties none.
        there: ``(B, K)`` bool, where there is a reply.
        tokens: ``(B, K)`` lengths.
    """

    policy: torch.Tensor
    base: torch.Tensor
    scores: torch.Tensor
    there: torch.Tensor
    tokens: torch.Tensor

    @property
    def ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on each reply, ``(B, K)``, nats."""
        return self.policy - self.base

    @property
    def both(self) -> torch.Tensor:
        """Whether there are two such replies, ``(B, K, K)`` bool."""
        return self.there[:, :, None] & self.there[:, None, :]

    @property
    def better(self) -> torch.Tensor:
        """Whether the first of two replies is scored above the second, ``(B, K, K)`` bool; of a tie neither is."""
        return (self.scores[:, :, None] > self.scores[:, None, :]) & self.both

    @property
    def tied(self) -> torch.Tensor:
        """Whether two replies have one score, ``(B, K, K)`` bool; each has its own."""
        return (self.scores[:, :, None] == self.scores[:, None, :]) & self.both

    @property
    def best(self) -> torch.Tensor:
        """The replies that none is better than, ``(B, K)`` bool."""
        return self.there & ~self.better.any(1)

    @property
    def worst(self) -> torch.Tensor:
        """The replies that are better than none, ``(B, K)`` bool."""
        return self.there & ~self.better.any(2)

    def labels(self, score_range: Sequence[float]) -> torch.Tensor:
        """The scores on a scale from 0 to 1, ``(B, K)``, 0 where there is no reply.

        Args:
            score_range: the scores that are 0 and 1; empty: the worst and the best of each list.
        """
        if score_range:
            low, high = score_range
            scaled = (self.scores - low) / (high - low)
        else:
            least = self.scores.masked_fill(~self.there, torch.inf).amin(1, keepdim=True)
            most = self.scores.masked_fill(~self.there, -torch.inf).amax(1, keepdim=True)
            scaled = (self.scores - least) / (most - least)
        return scaled.masked_fill(~self.there, 0).to(self.policy.dtype)


def pad(values: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of lists that lie one after another, side by side: ``(B, K)``, zero beyond a list's end, and where not.

    Args:
        values: ``(sum of sizes,)``.
        sizes: ``B`` lengths.
    """
    ends = torch.tensor(sizes, device=values.device)[:, None]
    there = torch.arange(max(sizes), device=values.device) < ends
    return values.new_zeros(there.shape).masked_scatter(there, values), there
