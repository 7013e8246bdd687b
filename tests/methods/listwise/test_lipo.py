"""LiPO: DPO times a weight of a pair, LambdaRank's weights, and all orders of what is level."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from ranking import double, lists, slopes, some_list

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.lipo import lipo_loss
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss

BETA = 0.6


def loss(given: ListLogps) -> torch.Tensor:
    return lipo_loss(given, given.labels(()), beta=BETA)


def by_hand(strength: torch.Tensor, labels: list[float], order: list[int]) -> torch.Tensor:
    """With the ranks that ``order`` says, best first."""
    discount = [1 / math.log2(2 + order.index(i)) for i in range(len(labels))]
    gain = [2**label - 1 for label in labels]
    total = torch.zeros((), dtype=torch.float64)
    for i, j in permutations(range(len(labels)), 2):
        if labels[i] > labels[j]:
            weight = abs(gain[i] - gain[j]) * abs(discount[i] - discount[j])
            total = total + weight * torch.log1p(torch.exp(strength[j] - strength[i]))
    return total


@pytest.mark.parametrize("levels", [0, 3])
def test_against_plain_loops(levels: int) -> None:
    given = some_list(6, 6, levels=levels)
    strength = BETA * given.ratio[0]
    order = sorted(range(6), key=lambda i: -float(strength[i].detach()))
    wanted = by_hand(strength, given.labels(())[0].tolist(), order)
    torch.testing.assert_close(loss(given)[0], wanted)
    torch.testing.assert_close(slopes(loss, given), torch.autograd.grad(wanted, given.policy)[0])


def test_level_replies_weigh_by_the_mean_over_their_orders() -> None:
    """Replies 1, 2 and 3 of five share the ranks 2 to 4: the mean of six losses."""
    given = lists(([2.0, 0.5, 0.5, 0.5, -1.0], (0.0, 1.0, 0.3, 0.8, 0.6)))
    strength, labels = BETA * given.ratio[0], given.labels(())[0].tolist()
    every = [by_hand(strength, labels, [0, *order, 4]) for order in permutations((1, 2, 3))]
    wanted = torch.stack(every).mean()
    torch.testing.assert_close(loss(given)[0], wanted)
    torch.testing.assert_close(slopes(loss, given), torch.autograd.grad(wanted, given.policy)[0])


@pytest.mark.parametrize("ratio", [(0.5, -3.0), (-3.0, 0.5), (0.0, 0.0)])
def test_of_a_list_of_two_it_is_a_weight_times_dpo(ratio: tuple[float, float]) -> None:
    """``(2^1 - 2^0) (1 / log2 2 - 1 / log2 3)``, in whichever order they stand."""
    given, zero = lists((ratio, (1, 0))), torch.zeros(1, dtype=torch.float64)
    same = dpo_loss(PairLogps(double(ratio[0]), double(ratio[1]), zero, zero), beta=BETA, label_smoothing=0)
    weight = 1 - 1 / math.log2(3)
    torch.testing.assert_close(loss(given), weight * same, rtol=1e-12, atol=0)
    half = lipo_loss(given, given.labels((0, 2)), beta=BETA)  # a best reply of half the range gains 2^0.5 - 1
    torch.testing.assert_close(half, (2**0.5 - 1) * weight * same, rtol=1e-12, atol=0)
