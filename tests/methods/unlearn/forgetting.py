"""What the tests of unlearning share: replies of given numbers, gradients, a table of one prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from truing.methods.unlearn._family import ForgetLogps

Loss = Callable[[ForgetLogps], torch.Tensor]
TOKENS = torch.tensor([4, 1, 30, 7, 12])


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def some_forgotten(width: int = 0, seed: int = 0) -> ForgetLogps:
    """Five replies of several lengths, about two nats from their base, with so many others; leaves with gradient."""
    source = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 20, (5, width), generator=source)
    drawn = torch.randn(2, 5, 1 + width, generator=source, dtype=torch.float64)
    sums = -0.7 * torch.cat([TOKENS[:, None], counts], 1) - 2 * drawn[0].abs()
    bases = (sums + 2 * drawn[1]).detach()
    return ForgetLogps(
        sums[:, 0].clone().requires_grad_(), bases[:, 0], TOKENS,
        sums[:, 1:].clone().requires_grad_(), bases[:, 1:], counts,
    )  # fmt: skip


def at(policy: torch.Tensor, base: torch.Tensor, forget: int, instead: Sequence[Sequence[int]] = ((),)) -> ForgetLogps:
    """One reply of a table ``(R,)``, once for each row of others, all of one token."""
    others = torch.tensor(instead, dtype=torch.int64)
    one = torch.ones(len(others), dtype=torch.int64)
    return ForgetLogps(
        policy[forget].expand(len(one)), base[forget].expand(len(one)), one,
        policy[others], base[others], torch.ones_like(others),
    )  # fmt: skip


def has_slopes(loss: Loss, forgotten: torch.Tensor, instead: torch.Tensor, given: ForgetLogps) -> None:
    """Autograd gives the gradient that the docstring states."""
    found = torch.autograd.grad(loss(given).sum(), (given.forgotten, given.instead), allow_unused=True)
    for grad, wanted in zip(found, (forgotten, instead), strict=True):
        have = torch.zeros_like(wanted) if grad is None else grad
        torch.testing.assert_close(have, wanted.detach(), rtol=1e-9, atol=1e-9)


def descended(
    loss: Loss, base: torch.Tensor, forget: int, instead: Sequence[Sequence[int]], *, least: float
) -> torch.Tensor:
    """Probabilities of a table after descent on its logits, once the forgotten reply has the probability ``least``."""
    logits = base.clone().requires_grad_()
    for _ in range(20000):
        policy = logits.log_softmax(0)
        if float(policy[forget].detach().exp()) <= least:
            return policy.detach().exp()
        (slope,) = torch.autograd.grad(loss(at(policy, base, forget, instead)).mean(), logits)
        logits.data -= 0.05 * slope / slope.norm()  # small steps of one length, for losses of any scale
    raise AssertionError("it was never forgotten")
