"""Plackett-Luce: a likelihood of orders, DPO of a pair, ties by all the orders that they leave open."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
import torch
from ranking import double, learned, lists, slopes, some_list

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.plackett_luce import all_before, plackett_luce_loss
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss


def loss(given: ListLogps) -> torch.Tensor:
    return plackett_luce_loss(given, beta=0.7)


def likelihood(strength: list[float], order: tuple[int, ...]) -> float:
    """Of one order, best first, reply after reply."""
    left, product = [math.exp(strength[i]) for i in order], 1.0
    for k in range(len(order)):
        product *= left[k] / sum(left[k:])
    return product


def test_of_a_pair_it_is_dpo() -> None:
    given = lists(([1.0, -2.0], (1, 0)), ([-3.0, 0.4], (0, 5)), ([0.2, 9.0], (2, 1)))
    ratio, zero = given.ratio.detach(), torch.zeros(3, dtype=torch.float64)
    first = given.scores[:, 0] > given.scores[:, 1]
    chosen, rejected = torch.where(first, ratio[:, 0], ratio[:, 1]), torch.where(first, ratio[:, 1], ratio[:, 0])
    chosen.requires_grad_()
    pairs = dpo_loss(PairLogps(chosen, rejected, zero, zero), beta=0.7, label_smoothing=0)
    torch.testing.assert_close(loss(given), pairs, rtol=0, atol=1e-12)
    (wanted,) = torch.autograd.grad(pairs.sum(), chosen)
    found = slopes(loss, given)
    torch.testing.assert_close(torch.where(first, found[:, 0], found[:, 1]), wanted, rtol=0, atol=1e-12)


def test_the_likelihoods_of_all_orders_are_one_together() -> None:
    ratio = some_list(2, 5).ratio[0].detach().tolist()
    total = sum(float(torch.exp(-loss(lists((ratio, scores)))).detach()) for scores in permutations(range(5)))
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_with_ties_it_is_the_likelihood_of_all_orders_that_they_leave_open(seed: int, levels: int) -> None:
    """Brute force over 720 orders, in value and slope."""
    given = some_list(seed, 6, levels=levels)
    scores = given.scores[0].tolist()
    strength = 0.7 * given.ratio[0].detach()
    strength.requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for order in permutations(range(6)):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            ranked = strength[list(order)]
            total = total + torch.exp((ranked - ranked.flip(0).logcumsumexp(0).flip(0)).sum())
    torch.testing.assert_close(loss(given)[0], -total.log(), rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad(-total.log(), strength)
    torch.testing.assert_close(slopes(loss, given)[0], 0.7 * wanted, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_the_one_stated() -> None:
    """Softmax over each reply and what is worse, at a reply, less one unless it is the worst."""
    given = some_list(5, 5)
    strength, scores = 0.7 * given.ratio[0].detach(), given.scores[0]
    wanted = torch.zeros(5, dtype=torch.float64)
    for i in range(5):
        among = scores <= scores[i]
        if among.sum() > 1:
            wanted += strength.masked_fill(~among, -torch.inf).softmax(0)
            wanted[i] -= 1
    torch.testing.assert_close(slopes(loss, given)[0], 0.7 * wanted)


def test_clocks_against_inclusion_and_exclusion() -> None:
    """One of m clocks of rate r against one of rate 1: ``sum over subsets of (-1)^|T| / (1 + sum of T's rates)``."""
    rates = double(0.3, 2.0, 0.01, 40.0)
    inside = torch.tensor([True, True, False, True])
    wanted = 0.0
    for bits in range(8):
        taken = [rate for k, rate in enumerate((0.3, 2.0, 40.0)) if bits >> k & 1]
        wanted += (-1) ** len(taken) / (1 + sum(taken))
    assert float(all_before(rates.log(), inside).exp()) == pytest.approx(wanted, rel=1e-13)
    one = torch.tensor([True, False, False, False])
    for rate in (-40.0, -1.0, 0.0, 30.0):
        chance = float(all_before(torch.full((4,), rate, dtype=torch.float64), one))
        assert chance == pytest.approx(-math.log1p(math.exp(-rate)), rel=1e-12)


def test_hopeless_ties_fall_off_like_their_product() -> None:
    """Two clocks of rate e^-500 before one of rate 1: twice the product, ``2 e^-1000``."""
    both = torch.tensor([True, True])
    assert float(all_before(double(-500, -500), both)) == pytest.approx(math.log(2) - 1000, abs=1e-9)
    single = float(all_before(torch.tensor([-500.0, -500.0]), both))
    assert single == pytest.approx(math.log(2) - 1000, rel=1e-6)


def test_a_tie_says_nothing_about_its_own_replies() -> None:
    """The worst two: whatever their order, only what the best is above counts. Tied, the table keeps them level."""
    given = lists(([0.3, -0.2, 1.5], (1, 0, 0)))
    strength = 0.7 * given.ratio[0].detach()
    torch.testing.assert_close(loss(given)[0], -strength.log_softmax(0)[0])
    found = learned(loss, (2, 1, 1, 0), steps=150)
    assert found[0] > found[1] > found[3]
    torch.testing.assert_close(found[1], found[2])


def test_training_a_table_finds_the_strengths() -> None:
    """Orders as often as strengths 4 : 2 : 1 give them, ``beta`` 1/2: the optimum is ``strength ** 2``."""
    strength, orders = [math.log(4), math.log(2), 0.0], list(permutations(range(3)))
    rows = [[float(2 - order.index(i)) for i in range(3)] for order in orders]
    often = double(*(likelihood(strength, order) for order in orders))
    logits = double(*(2 * value for value in strength)).requires_grad_()
    policy = logits.log_softmax(0).expand(6, 3)
    there = torch.ones(6, 3, dtype=torch.bool)
    given = ListLogps(policy, torch.full_like(policy, -math.log(3)), torch.tensor(rows), there, there.long())
    (found,) = torch.autograd.grad((often * plackett_luce_loss(given, beta=0.5)).sum(), logits)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
