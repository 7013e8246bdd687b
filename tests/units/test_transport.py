"""Assignments and plans against brute force, their margins, their limits, and POT."""

from __future__ import annotations

import itertools

import pytest
import torch

from truing.core.errors import InputError
from truing.units.transport import assignment, emd, for_inputs, for_outputs, gumbel, sinkhorn


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_assignment_is_the_best_of_all_orders(size: int) -> None:
    scores = numbers(size, size)
    best = max(itertools.permutations(range(size)), key=lambda order: sum(scores[j, i] for i, j in enumerate(order)))
    assert tuple(assignment(scores).tolist()) == best


def test_a_plan_of_equal_sides_is_the_assignment() -> None:
    cost = numbers(7, 7)
    plan = emd(cost)
    assert torch.equal(plan.argmax(0), assignment(-cost))
    assert (plan > 0).sum() == 7
    torch.testing.assert_close(plan.sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(2, 4), (6, 3), (3, 5)])
def test_an_exact_plan_is_the_cheapest(shape: tuple[int, int]) -> None:
    """Repeating units until both sides are equal makes it an assignment, which brute force has shown to be right."""
    cost = numbers(*shape, seed=3)
    plan = emd(cost)
    rows, columns = shape
    repeated = cost.repeat_interleave(columns, 0).repeat_interleave(rows, 1)
    least = repeated[assignment(-repeated), torch.arange(rows * columns)].mean()
    torch.testing.assert_close((plan * cost).sum(), least)
    margins(plan)


def margins(plan: torch.Tensor) -> None:
    rows, columns = plan.shape
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((rows,), 1 / rows, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(plan.sum(0), torch.full((columns,), 1 / columns, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("iterations", [1, 20, 5000])
@pytest.mark.parametrize("shape", [(5, 5), (4, 9)])
def test_the_margins_hold_after_any_number_of_iterations(iterations: int, shape: tuple[int, int]) -> None:
    margins(sinkhorn(numbers(*shape), regularisation=0.05, iterations=iterations))


@pytest.mark.parametrize("shape", [(6, 6), (4, 8)])
def test_sinkhorn_is_pots(shape: tuple[int, int]) -> None:
    import ot

    cost = numbers(*shape, seed=1)
    even = [torch.full((n,), 1 / n, dtype=torch.float64).numpy() for n in shape]
    theirs = ot.sinkhorn(*even, cost.numpy(), 0.1, method="sinkhorn_log", stopThr=1e-12, numItermax=10000)
    ours = sinkhorn(cost, regularisation=0.1, iterations=10000)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-8)


def test_towards_no_entropy_it_is_the_exact_plan_and_towards_much_the_uniform_one() -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    cost = 0.5 + 0.5 * numbers(8, 8)
    cost[order, torch.arange(8)] = 0.1 * numbers(8)
    near = sinkhorn(cost, regularisation=1e-3, iterations=5000)
    assert (near - emd(cost)).abs().sum() < 1e-3
    assert (sinkhorn(cost, regularisation=1e4, iterations=50) - 1 / 64).abs().max() < 1e-5


def test_noise_makes_it_a_draw() -> None:
    """Of two units, each order is drawn as often as its share of the scores, exp(-total) over both."""
    cost = torch.tensor([[0.0, 0.6], [0.9, 0.0]], dtype=torch.float64)
    source, straight, draws = torch.Generator().manual_seed(0), 0, 400
    for _ in range(draws):
        plan = sinkhorn(cost, regularisation=1.0, iterations=200, noise=gumbel((2, 2), source))
        straight += int(plan[0, 0] > plan[0, 1])
    # The sum of two Gumbel variables against the sum of two others, shifted by 1.5: P = E[sigmoid of the shift...].
    other = torch.Generator().manual_seed(9)
    left, right = (gumbel((200_000, 2), other).sum(1) for _ in range(2))
    expected = float((left - right + 1.5 > 0).double().mean())
    assert abs(straight / draws - expected) < 4 * (expected * (1 - expected) / draws) ** 0.5


def test_the_two_normalisations() -> None:
    plan = sinkhorn(numbers(3, 5), regularisation=0.2, iterations=500)
    torch.testing.assert_close(for_outputs(plan).sum(0), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(for_inputs(plan).sum(1), torch.ones(3, dtype=torch.float64))


def test_repeated_units_keep_the_function_with_both_and_not_with_one() -> None:
    """Net2wider: a layer of 3 units into 6, each twice."""
    first, second, x = numbers(3, 4), numbers(2, 3), numbers(9, 4)
    plan = torch.eye(3, dtype=torch.float64).repeat(1, 2) / 6
    wide = for_outputs(plan).T @ first, second @ for_inputs(plan)
    wanted = (x @ first.T).relu() @ second.T
    torch.testing.assert_close((x @ wide[0].T).relu() @ wide[1].T, wanted, rtol=0, atol=1e-14)
    assert ((x @ wide[0].T).relu() @ (second @ for_outputs(plan)).T - wanted).abs().max() > 0.1


def test_what_is_not_finite_is_refused() -> None:
    for call in (assignment, emd, lambda c: sinkhorn(c, regularisation=0.1, iterations=3)):
        with pytest.raises(InputError, match="not finite"):
            call(torch.full((2, 2), torch.nan))
    with pytest.raises(InputError, match="not square"):
        assignment(torch.zeros(2, 3))
