"""ApproxNDCG: the exact gain in the limit, its gradient as stated, the largest gain from labels in any order."""

from __future__ import annotations

import math

import pytest
import torch
from ranking import slopes, some_list, true_ndcg

from truing.methods.listwise._family import ListLogps
from truing.methods.listwise.approx_ndcg import approx_ndcg_loss


def loss(given: ListLogps, alpha: float = 2.0) -> torch.Tensor:
    return approx_ndcg_loss(given, given.labels(()), beta=0.3, alpha=alpha)


@pytest.mark.parametrize("seed", range(6))
def test_with_steep_sigmoids_it_is_the_gain_itself(seed: int) -> None:
    given = some_list(seed, 6, levels=4)
    wanted = true_ndcg(given.ratio[0].detach().tolist(), given.labels(())[0].tolist())
    assert -float(loss(given, 1e4).detach()) == pytest.approx(wanted, abs=1e-3)
    assert -float(loss(given, 1e6).detach()) == pytest.approx(wanted, abs=1e-6)


def test_value_and_gradient_as_written() -> None:
    given = some_list(2, 5)
    strength, gain = 0.3 * given.ratio[0].detach(), 2 ** given.labels(())[0] - 1
    ranks = torch.stack([1 + sum(torch.sigmoid(2 * (strength[j] - strength[i])) for j in range(5) if j != i)
                         for i in range(5)])  # fmt: skip
    most = sum(g / math.log2(2 + k) for k, g in enumerate(sorted(gain.tolist(), reverse=True)))
    torch.testing.assert_close(loss(given)[0], -(gain / torch.log2(1 + ranks)).sum() / most)
    by_rank = gain * math.log(2) / ((1 + ranks) * torch.log(1 + ranks).square()) / most
    moves = 2 * torch.sigmoid(2 * (strength[:, None] - strength)) * torch.sigmoid(2 * (strength - strength[:, None]))
    wanted = -(by_rank[:, None] - by_rank) * moves  # i rises: its own rank falls, that of each other rises
    torch.testing.assert_close(slopes(loss, given)[0], 0.3 * wanted.sum(1))
