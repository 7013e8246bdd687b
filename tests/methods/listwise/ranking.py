"""What the tests of listwise objectives share: lists of given numbers, gradients, and the true gain of an order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise._lists import pad

Loss = Callable[[ListLogps], torch.Tensor]


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def lists(*rows: tuple[Sequence[float], Sequence[float]], dtype: torch.dtype = torch.float64) -> ListLogps:
    """Lists of (log-ratios, scores), over a base of -50 nats a reply; ``policy`` is a leaf with gradient."""
    sizes = [len(scores) for _, scores in rows]
    ratio, there = pad(torch.tensor([x for row, _ in rows for x in row], dtype=dtype), sizes)
    scores, _ = pad(double(*(x for _, row in rows for x in row)), sizes)
    base = torch.where(there, -50.0, 0.0).to(dtype)
    return ListLogps((base + ratio).requires_grad_(), base, scores, there, there * 7)


def some_list(seed: int = 0, size: int = 5, *, levels: int = 0) -> ListLogps:
    """One list of random log-ratios, a few nats wide, and random scores: all different, or of so many levels."""
    source = torch.Generator().manual_seed(seed)
    ratio = 3 * torch.randn(size, generator=source, dtype=torch.float64)
    scores = torch.randint(levels, (size,), generator=source) if levels else torch.randperm(size, generator=source)
    if levels:
        scores[0], scores[-1] = 0, levels - 1
    return lists((ratio.tolist(), scores.tolist()))


def slopes(loss: Loss, given: ListLogps) -> torch.Tensor:
    """What autograd gives for the log-probabilities of the replies, ``(B, K)``."""
    (found,) = torch.autograd.grad(loss(given).sum(), given.policy)
    return found


def is_same(loss: Loss, other: Loss, given: ListLogps) -> None:
    """Two objectives agree in value and gradient."""
    torch.testing.assert_close(loss(given), other(given))
    torch.testing.assert_close(slopes(loss, given), slopes(other, given))


def true_ndcg(ratio: Sequence[float], labels: Sequence[float]) -> float:
    """The gain of the order that the log-ratios give, written as in a textbook; no two of them are level."""

    def dcg(order: Sequence[int]) -> float:
        return sum((2 ** labels[i] - 1) / math.log2(2 + place) for place, i in enumerate(order))

    found = sorted(range(len(ratio)), key=lambda i: -ratio[i])
    return dcg(found) / dcg(sorted(range(len(ratio)), key=lambda i: -labels[i]))


def learned(loss: Loss, scores: Sequence[float], *, steps: int = 400, rate: float = 0.1) -> torch.Tensor:
    """The log-ratios that gradient descent reaches on a table of so many replies, each as likely at the base."""
    logits = torch.zeros(1, len(scores), dtype=torch.float64, requires_grad=True)
    base = torch.full((1, len(scores)), -math.log(len(scores)), dtype=torch.float64)
    there = torch.ones_like(base, dtype=torch.bool)
    optimiser = torch.optim.Adam([logits], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        policy = logits.log_softmax(1)
        loss(ListLogps(policy, base, double(*scores)[None], there, there.long())).sum().backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
    return (logits.log_softmax(1) - base).detach()[0]
