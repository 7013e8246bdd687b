"""Prompts with continuations, as tokens, and what is said of each of these tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from truing.core.lazy import torch


@dataclass(frozen=True)
class Tree:
    """A prompt with K continuations, as tokens. The one layout of every training signal."""

    prompt: tuple[int, ...]
    replies: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Tokens in the packed layout: the prompt once, every continuation once."""
        return len(self.prompt) + sum(map(len, self.replies))


@dataclass(frozen=True)
class Extras:
    """What scores tell of each token beside its log-probability.

    Attributes:
        collisions: the chance that two draws agree where it is predicted.
        divergences: the KL there from the policy that was opened.
        temperature: of both distributions in that KL, > 0.
        extrapolation: how much further than it has come the policy is taken to go, >= 0, for its log-probability then;
            0 asks for nothing.
    """

    collisions: bool = False
    divergences: bool = False
    temperature: float = 1.0
    extrapolation: float = 0.0

    @property
    def compares(self) -> bool:
        """Whether the policy that was opened has to score the tokens too, at the price of a forward pass."""
        return self.divergences or self.extrapolation > 0


NO_EXTRAS = Extras()
"""Log-probabilities and no more."""


@dataclass(frozen=True)
class TreeScores:
    """Log-probabilities of the continuations of some trees.

    Attributes:
        tokens: ``(T,)`` nats, every target token, tree by tree, reply by reply.
        owner: ``(T,)`` int64, the number of the reply (over all trees) that a token belongs to.
        counts: ``(S,)`` int64, tokens of each reply.
        states: ``(T, D)``, the last hidden state that each token is predicted from; None where it was not kept.
        collisions: ``(T,)`` nats, the log of the sum of all squared probabilities where a token is predicted, without
            gradient; None where nobody asked for it.
        divergences: ``(T,)`` nats, KL from the policy that was opened to the one that is trained where a token is
            predicted, over the whole vocabulary, with gradient; None where nobody asked for it.
        extrapolated: ``(T,)`` nats, the token's log-probability under logits that went on away from those of the policy
            that was opened, without gradient; None where nobody asked for it.
    """

    tokens: torch.Tensor
    owner: torch.Tensor
    counts: torch.Tensor
    states: torch.Tensor | None = None
    collisions: torch.Tensor | None = None
    divergences: torch.Tensor | None = None
    extrapolated: torch.Tensor | None = None

    @property
    def sums(self) -> torch.Tensor:
        """Summed log-probability of each reply, ``(S,)``, nats."""
        zeros = self.tokens.new_zeros(self.counts.shape[0])
        return zeros.index_add(0, self.owner, self.tokens)
