"""Logarithms that keep their digits, and their slopes finite."""

from __future__ import annotations

from truing.core.lazy import torch

CERTAIN = 1e-8  # a probability within this of 1 counts as this far from it


def log1mexp(logp: torch.Tensor) -> torch.Tensor:
    """``log(1 - exp(logp))`` for ``logp <= 0``, nats. At ``logp = 0`` both value and slope are those of -1e-8."""
    below = logp - (logp + CERTAIN).clamp_min(0).detach()
    # Either form loses the other's half to rounding; where() hands the slope of both on, so both must be finite.
    near = torch.log(-torch.expm1(below.clamp_min(-1)))
    far = torch.log1p(-torch.exp(below.clamp_max(-0.5)))
    return torch.where(below > -0.6931, near, far)
