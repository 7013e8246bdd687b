"""Sets of pairs: against plain loops, and DPO and hinge where a list is a pair."""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import pytest
import torch
from ranking import double, lists, slopes, some_list

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.pairwise_sets import Pairs, pairwise_sets_loss
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.hinge import hinge_loss

SETS: tuple[Pairs, ...] = ("all", "best_with_others", "best_with_worst")
BETA = 0.4


def by_hand(given: ListLogps, pairs: Pairs, form: str) -> torch.Tensor:
    scores, strength = given.scores[0].tolist(), BETA * given.ratio[0]
    found = []
    for i, j in permutations(range(len(scores)), 2):
        taken = scores[i] > scores[j]
        taken &= pairs == "all" or scores[i] == max(scores)
        taken &= pairs != "best_with_worst" or scores[j] == min(scores)
        if taken:
            margin = strength[i] - strength[j]
            found.append(torch.log1p(torch.exp(-margin)) if form == "logistic" else (1 - margin).clamp_min(0))
    return torch.stack(found).mean()


@pytest.mark.parametrize("form", ["logistic", "hinge"])
@pytest.mark.parametrize("pairs", SETS)
@pytest.mark.parametrize("levels", [0, 3])
def test_against_plain_loops(pairs: Pairs, form: Literal["logistic", "hinge"], levels: int) -> None:
    given = some_list(4, 6, levels=levels)

    def loss(one: ListLogps) -> torch.Tensor:
        return pairwise_sets_loss(one, beta=BETA, pairs=pairs, form=form)

    torch.testing.assert_close(loss(given)[0], by_hand(given, pairs, form))
    (wanted,) = torch.autograd.grad(by_hand(given, pairs, form), given.policy)
    torch.testing.assert_close(slopes(loss, given), wanted)


@pytest.mark.parametrize("pairs", SETS)
def test_of_a_list_of_two_it_is_dpo_or_the_hinge(pairs: Pairs) -> None:
    given, zero = lists(([0.3, -4.0], (1, 0)), ([-5.0, 2.0], (1, 0))), torch.zeros(2, dtype=torch.float64)
    same = PairLogps(double(0.3, -5.0), double(-4.0, 2.0), zero, zero)
    found = pairwise_sets_loss(given, beta=BETA, pairs=pairs, form="logistic")
    torch.testing.assert_close(found, dpo_loss(same, beta=BETA, label_smoothing=0))
    found = pairwise_sets_loss(given, beta=BETA, pairs=pairs, form="hinge")
    torch.testing.assert_close(found, hinge_loss(same, beta=BETA))
