"""preference/wpo."""

from __future__ import annotations

import pytest
import torch
from objectives import double, from_tokens, ratios

from truing.core.policy import user
from truing.core.trees import Extras, TreeScores
from truing.methods.preference._pairs import gather
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.wpo import wpo_loss
from truing.models.tabular import Tabular

CHAT = user("q")


def scored(shares: list[float], columns: list[int]) -> TreeScores:
    table = Tabular((CHAT,), tuple("abcd"), double(*shares).log()[None])
    bench = table.open()
    bench.extras = Extras(collisions=True)
    return bench.score([table.encode(CHAT, [table.replies[i] for i in columns])])


def test_the_weight_by_hand() -> None:
    """Probabilities over the chance that two draws agree: 1/2 and 1/10 over 0.34."""
    pairs = gather(scored([0.5, 0.3, 0.1, 0.1], [0, 2]), double(-1.0, -1.5))
    chance = 0.25 + 0.09 + 0.01 + 0.01
    weight = 0.5 / chance * 0.1 / chance
    torch.testing.assert_close(wpo_loss(pairs, beta=0.4), weight * dpo_loss(pairs, beta=0.4, label_smoothing=0))


def test_under_an_even_policy_it_is_dpo() -> None:
    pairs = gather(scored([0.25] * 4, [1, 3]), double(-1.0, -1.5))
    torch.testing.assert_close(wpo_loss(pairs, beta=0.4), dpo_loss(pairs, beta=0.4, label_smoothing=0))


def test_a_token_that_the_policy_draws_has_a_weight_of_1_on_average() -> None:
    """That is what the alignment is for: ``sum_v p(v) p(v) / sum p^2 = 1``."""
    shares = double(0.5, 0.3, 0.1, 0.1)
    weights = [
        wpo_loss(pairs, beta=1e-12) / dpo_loss(pairs, beta=1e-12, label_smoothing=0)
        for pairs in (gather(scored(shares.tolist(), [i, j]), double(-1, -1)) for i in range(4) for j in range(4))
    ]
    mean = (torch.cat(weights).view(4, 4) * shares[:, None] * shares).sum()
    torch.testing.assert_close(mean, double(1.0)[0])


def test_slopes_are_dpos_times_the_weight() -> None:
    """No gradient goes through the weights."""
    leaf = -torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    base, counts = leaf - 0.2, [4, 5]
    leaf.requires_grad_()
    pairs = from_tokens(leaf, base, counts)
    (ours,) = torch.autograd.grad(wpo_loss(pairs, beta=0.4).sum(), leaf)
    (dpos,) = torch.autograd.grad(dpo_loss(from_tokens(leaf, base, counts), beta=0.4, label_smoothing=0).sum(), leaf)
    aligned = (leaf - pairs.by_token.collisions).detach()
    torch.testing.assert_close(ours, dpos * torch.exp(aligned[:4].mean() + aligned[4:].mean()))


def test_without_collisions_it_refuses() -> None:
    scores = scored([0.25] * 4, [1, 3])
    pairs = gather(TreeScores(scores.tokens, scores.owner, scores.counts), double(-1.0, -1.5))
    with pytest.raises(ValueError, match="agree"):
        wpo_loss(pairs, beta=1.0)
    with pytest.raises(ValueError, match="each"):
        wpo_loss(ratios(double(1.0), double(0.0)), beta=1.0)
