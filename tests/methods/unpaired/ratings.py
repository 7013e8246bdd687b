"""What the tests of unpaired objectives share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from truing.core.evidence import Rating
from truing.core.policy import user
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
RATINGS = tuple(
    Rating(user(prompt), reply, value) for prompt, *two in WORDS for reply, value in zip(two, (1.0, 0.0), strict=True)
)
QUICK: dict[str, Any] = {
    "learning_rate": 3e-3, "max_steps": 6, "per_device_train_batch_size": 6, "logging_steps": 1, "warmup_ratio": 0,
}  # fmt: skip
"""Steps of six and of two, in turn."""


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rated(ratio: torch.Tensor, desirable: Sequence[bool], **more: Any) -> RatedLogps:
    """Replies of these log-ratios over a base that gives each -3 nats; leaves with gradient."""
    base = torch.full_like(ratio, -3.0)
    return RatedLogps((ratio.detach() + base).requires_grad_(), base, torch.tensor(desirable), **more)


def some(seed: int = 0, count: int = 7) -> RatedLogps:
    """Replies of both sides, some nats from their base."""
    ratio = 4 * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rated(ratio, [k % 3 != 1 for k in range(count)])


def slope(loss: Callable[[RatedLogps], torch.Tensor], given: RatedLogps) -> torch.Tensor:
    """What autograd gives for the sums, ``(B,)``."""
    (found,) = torch.autograd.grad(loss(given).sum(), given.policy)
    return found


def whole(method: UnpairedMethod, given: RatedLogps) -> RatedLogps:
    """The same as a step of its own; where mismatched replies are asked for, these stand for them too."""
    return replace(given, of_step=method.of_step(replace(given, policy=given.policy.detach())))
