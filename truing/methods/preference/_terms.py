"""Terms that several objectives share, finite wherever their inputs are."""

from __future__ import annotations

from truing.core.lazy import F, torch
from truing.engine.stable import log1mexp as log1mexp
from truing.methods.preference._pairs import PairLogps

STEEP = 30.0  # exp(30) = 1e13 is beyond anything that is trained on, and its square is still a float32


def logistic(logits: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Minus log sigmoid of ``logits``, and of their opposite by a share of ``label_smoothing``; never overflows."""
    if label_smoothing == 0:
        return F.softplus(-logits)
    return (1 - label_smoothing) * F.softplus(-logits) + label_smoothing * F.softplus(logits)


def chosen_nll(pairs: PairLogps) -> torch.Tensor:
    """Negative log-likelihood of the chosen reply, a mean over its own tokens: ``(B,)``, nats a token."""
    return -pairs.averaged().chosen


def log_odds(logp: torch.Tensor) -> torch.Tensor:
    """``log(p / (1 - p))`` for ``logp = log p <= 0``, nats."""
    return logp - log1mexp(logp)


def bent(values: torch.Tensor, alpha: float) -> torch.Tensor:
    """``(1 - exp(-alpha v)) / alpha``, ``v`` itself at ``alpha = 0``; its slope is ``exp(-alpha v)``.

    Where the exponent is beyond 30 the function goes on along its tangent, so that value and slope stay finite.
    """
    if alpha == 0:
        return values
    exponent = -alpha * values
    over = F.relu(exponent - STEEP)  # whose slope at 0 is 0, where that of clamp() is 1 on both sides
    tangent = torch.expm1(exponent.clamp_max(STEEP)) + over * torch.exp(torch.full_like(over, STEEP))
    return -tangent / alpha
