"""preference/bonbon."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from objectives import double, has_slopes, is_same, some_pairs

from truing.methods.preference._family import PairLogps
from truing.methods.preference.bonbon import BoNBoN, bonbon_loss, gap
from truing.methods.preference.ipo import ipo_loss


def best_and_worst(base: torch.Tensor, n: int) -> torch.Tensor:
    """Chances that of ``n`` draws ``i`` is the best and ``j`` the worst, ``(R, R)``; later is better, ties are one."""
    upper = torch.cat([torch.zeros(1, dtype=base.dtype), base.cumsum(0)])
    size = len(base)
    within = torch.zeros(size + 1, size + 1, dtype=base.dtype)  # all draws in replies a .. b - 1
    for a in range(size + 1):
        for b in range(a, size + 1):
            within[a, b] = (upper[b] - upper[a]) ** n
    chance = torch.zeros(size, size, dtype=base.dtype)
    for i in range(size):
        for j in range(i + 1):
            chance[i, j] = within[j, i + 1] - within[j + 1, i + 1] - within[j, i] + (within[j + 1, i] if j < i else 0)
    return chance


BASE = torch.rand(50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
BASE = BASE / BASE.sum()


def expected(policy: torch.Tensor, n: int, alpha: float) -> torch.Tensor:
    """The loss over all best and worst of ``n`` draws from the base."""
    i, j = torch.cartesian_prod(torch.arange(len(BASE)), torch.arange(len(BASE))).T
    base = BASE.log()
    losses = bonbon_loss(PairLogps(policy[i], policy[j], base[i], base[j]), alpha=alpha, n=n)
    return (best_and_worst(BASE, n).flatten() * losses).sum()


def test_slopes() -> None:
    pairs = some_pairs()
    pull = 2 * 0.8 * (pairs.margin - gap(4))
    has_slopes(lambda p: bonbon_loss(p, alpha=0.2, n=4), pull - 0.2, -pull, pairs)


def test_the_target_is_the_gap_of_best_of_n_between_its_own_best_and_worst() -> None:
    """``E[(n - 1) (log U_best - log U_worst)]`` for the ranks of n draws, uniform on [0, 1]: ``(n - 1) H_{n-1}``.

    The largest of n has a mean logarithm of ``-1/n``, the smallest of ``-H_n``.
    """
    for n in (2, 4, 8):
        harmonic = sum(Fraction(1, k) for k in range(1, n + 1))
        assert gap(n) == pytest.approx(float((n - 1) * (harmonic - Fraction(1, n))))
    assert 1 / (2 * gap(8)) == pytest.approx(0.0275482094, abs=1e-10)
    assert [1 / (2 * gap(n)) for n in (2, 4)] == pytest.approx([1 / 2, 1 / 11])


def test_without_imitation_it_is_ipo_at_the_computed_beta() -> None:
    is_same(lambda p: bonbon_loss(p, alpha=0, n=8), lambda p: ipo_loss(p, beta=0.027548209366391185), some_pairs())


def test_with_imitation_alone_the_best_of_n_distribution_is_the_optimum() -> None:
    upper = torch.cat([torch.zeros(1, dtype=BASE.dtype), BASE.cumsum(0)])
    best = upper[1:] ** 8 - upper[:-1] ** 8
    torch.testing.assert_close(best_and_worst(BASE, 8).sum(1), best)
    logits = best.log().requires_grad_()
    (gradient,) = torch.autograd.grad(expected(logits.log_softmax(0), 8, 1.0), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_at_the_regressions_optimum_margins_obey_the_identity() -> None:
    """``E[m^2] = E[m] target``: the log-ratio itself is a direction in which nothing is gained. Its gap stays below."""
    n, chance = 8, best_and_worst(BASE, 8)
    # Squared loss, linear in the log-ratios: sum_j (C_ij + C_ji) (h_i - h_j) = target (sum_j C_ij - C_ji).
    laplacian = torch.diag((chance + chance.T).sum(1)) - chance - chance.T
    ratio = torch.linalg.lstsq(laplacian, gap(n) * (chance - chance.T).sum(1, keepdim=True)).solution.squeeze()
    logits = (BASE.log() + ratio).requires_grad_()
    (gradient,) = torch.autograd.grad(expected(logits.log_softmax(0), n, 0.0), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)
    margin = ratio[:, None] - ratio
    first, second = (chance * margin).sum().item(), (chance * margin.square()).sum().item()
    assert second == pytest.approx(first * gap(n), rel=1e-9)
    assert 0 < first < gap(n)
    assert math.isfinite(first)


def test_it_wants_two_draws_at_least() -> None:
    from truing.core.errors import InputError

    with pytest.raises(InputError, match="n = 1"):
        BoNBoN(n=1)
    torch.testing.assert_close(double(gap(2)), double(1.0))
