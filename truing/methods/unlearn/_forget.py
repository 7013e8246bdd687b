"""What is to be forgotten as a loss sees it, beside what may be said instead; and the split of the ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.errors import bad
from truing.core.evidence import Rating
from truing.core.lazy import torch


@dataclass(frozen=True)
class ForgetLogps:
    """Log-probabilities of ``B`` replies to forget, and of ``K`` others to the same prompts, summed over tokens, nats.

    Attributes:
        forgotten: ``(B,)`` under the policy that is trained, with gradient.
        ref_forgotten: ``(B,)`` under its base; NaN where a method says that it uses none.
        forgotten_tokens: ``(B,)`` lengths, the end of turn included.
        instead: ``(B, K)`` of what may be said instead, under the policy; ``K`` is 0 where a method wants none.
        ref_instead: ``(B, K)`` under its base, or NaN.
        instead_tokens: ``(B, K)`` lengths.
    """

    forgotten: torch.Tensor
    ref_forgotten: torch.Tensor
    forgotten_tokens: torch.Tensor
    instead: torch.Tensor
    ref_instead: torch.Tensor
    instead_tokens: torch.Tensor

    @property
    def ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on what is to be forgotten, ``(B,)``, nats."""
        return self.forgotten - self.ref_forgotten

    @property
    def instead_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on the mean of the others, ``(B,)``, nats."""
        return (self.instead - self.ref_instead).mean(1)

    @property
    def per_token(self) -> torch.Tensor:
        """The forgotten reply's log-probability divided by its length, ``(B,)``, nats a token."""
        return self.forgotten / self.forgotten_tokens.clamp_min(1)  # 0 / 1 for no token at all

    @property
    def instead_per_token(self) -> torch.Tensor:
        """The others', each divided by its own length, ``(B, K)``, nats a token."""
        return self.instead / self.instead_tokens.clamp_min(1)


def parted(ratings: Sequence[Rating], threshold: float, place: str) -> tuple[list[Rating], list[Rating]]:
    """What to forget, rated at or below the threshold, and what to retain, in the order of the data.

    Raises:
        InputError: there is nothing to forget.
    """
    if not ratings:
        raise bad(place, "has no ratings", "Give 'data.ratings': 0 for what to forget, 1 for what to retain.")
    forget = [rating for rating in ratings if rating.value <= threshold]
    if not forget:
        fact = f"none of {len(ratings)} ratings is at or below the threshold {threshold:g}"
        raise bad(place, fact, "Rate what is to be forgotten lower, or raise threshold.")
    return forget, [rating for rating in ratings if rating.value > threshold]
