"""OPO: the exact gain in the limit, what scaling is for, and where it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ranking import double, lists, slopes, some_list, true_ndcg

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.opo import TOLERANCE, neural_sort, opo_loss, sinkhorn


def loss(given: ListLogps, temperature: float = 1.0, iterations: int = 50) -> torch.Tensor:
    return opo_loss(given, given.labels(()), beta=1.0, temperature=temperature, iterations=iterations)


@pytest.mark.parametrize("seed", range(6))
def test_of_a_cold_sort_it_is_the_gain_itself(seed: int) -> None:
    given = some_list(seed, 6, levels=4)
    wanted = true_ndcg(given.ratio[0].detach().tolist(), given.labels(())[0].tolist())
    assert -float(loss(given, 1e-3).detach()) == pytest.approx(wanted, abs=1e-6)


def test_the_sort_against_its_formula() -> None:
    """Row i is a softmax of ``(K + 1 - 2 i) s_j - sum_k |s_j - s_k|``; cold, it is the permutation that sorts."""
    given = lists(([0.3, 2.0, -1.0], (0, 1, 2)))
    strength = double(0.3, 2.0, -1.0)
    apart = (strength[:, None] - strength).abs().sum(1)
    wanted = torch.stack([((4 - 2 * i) * strength - apart).softmax(0) for i in (1, 2, 3)])
    torch.testing.assert_close(neural_sort(given, beta=1.0, temperature=1.0)[0].exp(), wanted)
    cold = neural_sort(given, beta=1.0, temperature=0.01)[0].exp()
    torch.testing.assert_close(cold, double(0, 1, 0, 1, 0, 0, 0, 0, 1).view(3, 3))


def test_without_scaling_the_gain_passes_the_exact_one() -> None:
    """The rows of a smooth sort sum to 1, its columns do not: some list's good replies stand in two places."""
    free, bound = [], []
    for seed in range(40):
        given = some_list(seed, 4)
        wanted = true_ndcg(given.ratio[0].detach().tolist(), given.labels(())[0].tolist())
        free.append(-float(loss(given, iterations=0).detach()) - wanted)
        bound.append(-float(loss(given).detach()))
        columns = neural_sort(given, beta=1.0, temperature=1.0)[0].detach().exp().sum(0)
        assert float((columns - 1).abs().max()) > 1e-3
    assert max(free) > 0.05
    assert max(bound) <= 1 + 1e-6  # a doubly stochastic matrix is a mixture of orders, none of which gains more than 1


def test_scaling_ends_within_its_tolerance_matrix_by_matrix() -> None:
    rows = [([0.1 * k, -0.2 * k, 0.3, 0.5 * k], (0, 1, 2, 3)) for k in range(1, 8)]
    order = neural_sort(lists(*rows), beta=1.0, temperature=1.0)
    scaled = sinkhorn(order, 200)
    for axis in (1, 2):
        assert float((scaled.detach().exp().sum(axis) - 1).abs().max()) <= TOLERANCE
    for b, row in enumerate(rows):
        alone = sinkhorn(neural_sort(lists(row), beta=1.0, temperature=1.0), 200)[0]
        assert torch.equal(alone, scaled[b])
    assert not torch.allclose(sinkhorn(order, 1), scaled, atol=1e-4)


def test_the_gradient_against_finite_differences() -> None:
    given = some_list(3, 5)
    step, found = 1e-5, slopes(loss, given)[0]
    for k in range(5):
        move = step * torch.eye(5, dtype=torch.float64)[k]
        above, below = (loss(replace(given, policy=given.policy.detach() + way)) for way in (move, -move))
        assert float(found[k]) == pytest.approx(float((above - below).detach() / (2 * step)), rel=1e-3, abs=1e-7)
