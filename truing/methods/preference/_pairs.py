"""Pairs as a loss sees them: log-probabilities of two replies under the policy and its base."""

from __future__ import annotations

from dataclasses import dataclass, replace

from truing.core.lazy import torch
from truing.core.trees import TreeScores


@dataclass(frozen=True)
class TokenLogps:
    """The tokens of ``B`` pairs in one line: chosen, rejected, chosen, ...

    Attributes:
        policy: ``(T,)`` log-probabilities under the policy that is trained, nats, with gradient.
        reference: ``(T,)`` under its base, nats; NaN where a method uses none.
        owner: ``(T,)`` int64, the reply of a token: ``2 b`` is the chosen one of pair ``b``, ``2 b + 1`` the other.
        position: ``(T,)`` int64, the tokens of the same reply before it.
        counts: ``(B, 2)`` int64, lengths of the chosen and the rejected replies.
        collisions: ``(T,)``, the log of the chance that two draws of the policy agree there, nats, without gradient;
            None where nobody asked for it.
        extrapolated: ``(T,)`` log-probabilities under what the policy is on its way to, nats, without gradient; None
            where nobody asked for them.
    """

    policy: torch.Tensor
    reference: torch.Tensor
    owner: torch.Tensor
    position: torch.Tensor
    counts: torch.Tensor
    collisions: torch.Tensor | None = None
    extrapolated: torch.Tensor | None = None

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """``(T,)`` values summed over each reply: ``(B, 2)``."""
        return values.new_zeros(self.counts.numel()).index_add(0, self.owner, values).view(-1, 2)


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of ``B`` pairs, each reply's summed over its tokens, nats.

    Attributes:
        chosen, rejected: ``(B,)`` under the policy that is trained, with gradient.
        ref_chosen, ref_rejected: ``(B,)`` under its base; NaN where a method says that it uses none, so that a loss
            that reads them all the same is not finite.
        chosen_tokens, rejected_tokens: ``(B,)`` lengths, for losses that average; None where they are not known.
        tokens: the same per token, for losses that weigh them; None where they are not known.
        of_step: what the method said of each pair when it saw the whole step, ``(B, ...)``; None where it saw none.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_tokens: torch.Tensor | None = None
    rejected_tokens: torch.Tensor | None = None
    tokens: TokenLogps | None = None
    of_step: torch.Tensor | None = None

    @property
    def margin(self) -> torch.Tensor:
        """How much further than its base the policy prefers the chosen reply, ``(B,)``, nats."""
        return self.chosen_ratio - self.rejected_ratio

    @property
    def certainty(self) -> torch.Tensor:
        """The margin of what the policy is on its way to, if that is known, or its own: ``(B,)``, nats, no gradient."""
        tokens = self.tokens
        if tokens is None or tokens.extrapolated is None:
            return self.margin.detach()
        chosen, rejected = tokens.sums(tokens.extrapolated - tokens.reference.to(tokens.extrapolated)).unbind(1)
        return chosen - rejected

    @property
    def chosen_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on the chosen reply, ``(B,)``, nats."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base on the rejected reply, ``(B,)``, nats."""
        return self.rejected - self.ref_rejected

    @property
    def by_token(self) -> TokenLogps:
        """The log-probabilities of the single tokens.

        Raises:
            ValueError: they are not known.
        """
        if self.tokens is None:
            raise ValueError("a loss that weighs tokens needs the log-probabilities of each")
        return self.tokens

    def averaged(self) -> PairLogps:
        """The same pairs with each reply's numbers divided by its own length: nats a token.

        Raises:
            ValueError: the lengths are not known.
        """
        if self.chosen_tokens is None or self.rejected_tokens is None:
            raise ValueError("a mean over tokens needs the replies' lengths")
        left, right = self.chosen_tokens.clamp_min(1), self.rejected_tokens.clamp_min(1)  # 0 / 1 for no token at all
        return replace(
            self,
            chosen=self.chosen / left,
            rejected=self.rejected / right,
            ref_chosen=self.ref_chosen / left,
            ref_rejected=self.ref_rejected / right,
        )


def gather(scores: TreeScores, reference: torch.Tensor | None) -> PairLogps:
    """Pairs from the scores of their trees.

    Args:
        scores: trees of two replies, the chosen one first.
        reference: ``(T,)`` log-probabilities of the same tokens under the base, nats; None where none are used.
    """
    counts = scores.counts.view(-1, 2)
    starts = scores.counts.cumsum(0) - scores.counts
    position = torch.arange(len(scores.owner), device=scores.owner.device) - starts[scores.owner]
    base = torch.full_like(scores.tokens, torch.nan) if reference is None else reference.to(scores.tokens.device)
    tokens = TokenLogps(scores.tokens, base, scores.owner, position, counts, scores.collisions, scores.extrapolated)
    sums = scores.sums.view(-1, 2)
    bases = tokens.sums(base.double()).to(sums)
    return PairLogps(sums[:, 0], sums[:, 1], bases[:, 0], bases[:, 1], counts[:, 0], counts[:, 1], tokens)
