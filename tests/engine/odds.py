"""What draws should be like: brute force over a small vocabulary, and a chi-square."""

from __future__ import annotations

import torch

from truing.core.policy import Sampling


def allowed(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
    """``(V,)`` probabilities: walk down from the likeliest and keep what the filters keep, one after another."""
    odds = (logits.double() / how.temperature).softmax(-1).tolist()
    order = sorted(range(len(odds)), key=lambda i: -odds[i])
    order = order[: how.top_k] if how.top_k else order
    total, mass, kept = sum(odds[i] for i in order), 0.0, []
    for i in order:
        if mass >= how.top_p * total:
            break
        kept.append(i)
        mass += odds[i]
    kept = [i for i in kept if odds[i] >= how.min_p * odds[order[0]]]
    left = sum(odds[i] for i in kept)
    return torch.tensor([odds[i] / left if i in kept else 0.0 for i in range(len(odds))], dtype=torch.float64)


def chance(tokens: torch.Tensor, expected: torch.Tensor) -> float:
    """How often draws from ``(V,)`` probabilities are as far from them as these: Pearson's chi-square.

    Tokens that are expected fewer than five times count as one. A token that cannot be has the chance 0.
    """
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    wanted = expected * counts.sum()
    often = wanted >= 5
    seen = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([wanted[often], wanted[~often].sum()[None]])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    if len(wanted) < 2:
        return 1.0
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(wanted) - 1) / 2, dtype=torch.float64), statistic / 2))
