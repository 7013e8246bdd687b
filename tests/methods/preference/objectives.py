"""What the tests of preference objectives share: pairs of given numbers, gradients, duels between replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from truing.core.trees import TreeScores
from truing.methods.preference._family import PairLogps
from truing.methods.preference._pairs import gather

Loss = Callable[[PairLogps], torch.Tensor]
TOKENS = (torch.tensor([4, 1, 30, 7, 12]), torch.tensor([6, 9, 1, 7, 20]))
GRID = torch.tensor([-40.0, -7.0, -2.5, -1.0, -0.3, -1e-3], dtype=torch.float64)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def some_pairs(seed: int = 0) -> PairLogps:
    """Five pairs of replies of several lengths, about two nats from their base; leaves with gradient."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randn(4, 5, generator=source, dtype=torch.float64)
    chosen, rejected = (-0.7 * count - 2 * drawn[i].abs() for i, count in enumerate(TOKENS))
    bases = (chosen + 2 * drawn[2], rejected + 2 * drawn[3])
    return PairLogps(chosen.requires_grad_(), rejected.requires_grad_(), bases[0].detach(), bases[1].detach(), *TOKENS)


def ratios(chosen: torch.Tensor, rejected: torch.Tensor) -> PairLogps:
    """Pairs with these log-ratios, of one token each, over a base that gives every reply 1/e."""
    one, base = torch.ones_like(chosen, dtype=torch.int64), -torch.ones_like(chosen)
    return PairLogps(chosen + base, rejected + base, base, base, one, one)


def from_tokens(policy: torch.Tensor, base: torch.Tensor, counts: Sequence[int]) -> PairLogps:
    """Pairs from the log-probabilities of their tokens, in the order chosen, rejected, chosen, ..."""
    sizes = torch.tensor(counts)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    # As if one other token were as likely as all the rest together: p^2 + (1 - p)^2 in a coin's world.
    agree = torch.log(policy.detach().exp().square() + (1 - policy.detach().exp()).square())
    return gather(TreeScores(policy, owner, sizes, collisions=agree), base)


def slopes(loss: Loss, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
    """What autograd gives for the chosen and the rejected sums, ``(B,)`` each."""
    leaves = pairs.chosen, pairs.rejected
    if not pairs.chosen.requires_grad:
        raise ValueError("the pairs' sums are no leaves with gradient")
    found = torch.autograd.grad(loss(pairs).sum(), leaves, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, leaves, strict=True))


def has_slopes(loss: Loss, chosen: torch.Tensor, rejected: torch.Tensor, pairs: PairLogps) -> None:
    """Autograd gives the gradient that the docstring states."""
    found = slopes(loss, pairs)
    torch.testing.assert_close(found[0], chosen.detach())
    torch.testing.assert_close(found[1], rejected.detach())


def is_same(loss: Loss, other: Loss, pairs: PairLogps) -> None:
    """Two objectives agree in value and gradient."""
    torch.testing.assert_close(loss(pairs), other(pairs))
    has_slopes(loss, *slopes(other, pairs), pairs)


def duel(
    loss: Loss, policy: torch.Tensor, base: torch.Tensor, wins: torch.Tensor, sampler: torch.Tensor
) -> torch.Tensor:
    """Expected loss over all ordered pairs of ``R`` one-token replies.

    Args:
        policy, base: ``(R,)`` log-probabilities.
        wins: ``(R, R)``, how often the row is preferred to the column.
        sampler: ``(R,)``, probability that a reply is put up for comparison.
    """
    i, j = torch.cartesian_prod(torch.arange(len(policy)), torch.arange(len(policy))).T
    one = torch.ones_like(i)
    losses = loss(PairLogps(policy[i], policy[j], base[i], base[j], one, one))
    return (sampler[i] * sampler[j] * wins[i, j] * losses).sum()


def is_stationary(
    loss: Loss, policy: torch.Tensor, base: torch.Tensor, wins: torch.Tensor, sampler: torch.Tensor
) -> None:
    """The expected loss does not change to first order when the table's logits do."""
    logits = policy.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(duel(loss, logits.log_softmax(0), base, wins, sampler), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def strengths(reward: torch.Tensor) -> torch.Tensor:
    """Bradley-Terry's chances that the row beats the column, ``(R, R)``."""
    return torch.sigmoid(reward[:, None] - reward[None])
