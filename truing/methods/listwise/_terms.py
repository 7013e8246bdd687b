"""What several listwise objectives share: gains, discounts, and where replies stand by the current log-ratios."""

from __future__ import annotations

from dataclasses import dataclass

from truing.core.lazy import torch
from truing.methods.listwise._lists import ListLogps

ROUNDING = 1e-6
"""Log-ratios that differ by less than this share of their log-probabilities are level: before the first update, all."""


@dataclass(frozen=True)
class Places:
    """Where the replies of some lists stand by their log-ratios, highest first, without gradient.

    Level replies share their places: all orders of them are equally likely, and what stands here is the mean over these
    orders. So neither rounding nor the order in which a list was written down decides anything.

    Attributes:
        discount: ``(B, K)``, the mean of ``1 / log2(1 + rank)``.
        apart: ``(B, K)``, the mean distance between the discounts of two of the replies that this one is level with.
        level: ``(B, K, K)`` bool, whether two replies are level.
    """

    discount: torch.Tensor
    apart: torch.Tensor
    level: torch.Tensor


def gains(labels: torch.Tensor) -> torch.Tensor:
    """``2^label - 1``, in [0, 1] for labels that are."""
    return torch.exp2(labels) - 1


def discounts(like: torch.Tensor) -> torch.Tensor:
    """``1 / log2(1 + rank)`` of the ranks 1 to ``K``, in the likeness of a ``(..., K)`` tensor."""
    return 1 / torch.log2(torch.arange(2, like.shape[-1] + 2, device=like.device, dtype=like.dtype))


def most_dcg(gain: torch.Tensor) -> torch.Tensor:
    """The discounted gain of each list in its best order, ``(B,)``, from gains ``(B, K)`` in any order."""
    return (gain.sort(1, descending=True).values * discounts(gain)).sum(1)


def places(lists: ListLogps) -> Places:
    """Ranks by the log-ratios of policy to base, ties shared."""
    ratio = lists.ratio.detach().masked_fill(~lists.there, -torch.inf)
    order = ratio.argsort(dim=1, descending=True, stable=True)
    ratio, size = ratio.gather(1, order), lists.policy.detach().abs().gather(1, order)
    step = ratio[:, :-1] - ratio[:, 1:] > ROUNDING * (size[:, :-1] + size[:, 1:])
    group = torch.cat([torch.zeros_like(order[:, :1]), step.cumsum(1)], 1)
    level = group[:, :, None] == group[:, None, :]
    each, many = discounts(ratio), level.sum(2)
    discount = (level * each).sum(2) / many
    distance = (level * (each[:, None] - each).abs()).sum(2)
    apart = (level * distance[:, None, :]).sum(2) / (many * (many - 1)).clamp_min(1)
    back = order.argsort(1)
    group = group.gather(1, back)
    return Places(discount.gather(1, back), apart.gather(1, back), group[:, :, None] == group[:, None, :])


def ndcg(lists: ListLogps, score_range: tuple[float, ...]) -> torch.Tensor:
    """Normalised discounted cumulative gain of the order that the log-ratios give, ``(B,)`` in (0, 1]."""
    gain = gains(lists.labels(score_range))
    return (gain * places(lists).discount).sum(1) / most_dcg(gain)


def differences(values: torch.Tensor) -> torch.Tensor:
    """``values_i - values_j``, ``(B, K, K)`` from ``(B, K)``."""
    return values[:, :, None] - values[:, None, :]


def masked_logsumexp(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Over the last dimension where ``mask`` is set; where none is, over all of it: finite, and to be left out."""
    return values.masked_fill(~(mask | ~mask.any(-1, keepdim=True)), -torch.inf).logsumexp(-1)
