"""unlearn/simnpo."""

from __future__ import annotations

from dataclasses import replace

import torch
from forgetting import TOKENS, has_slopes, some_forgotten

from truing.methods.unlearn.npo import npo_loss
from truing.methods.unlearn.simnpo import simnpo_loss


def test_slopes() -> None:
    given = some_forgotten()
    pull = 2 / TOKENS.double() * torch.sigmoid(2.5 * given.forgotten / TOKENS + 0.3)
    has_slopes(lambda f: simnpo_loss(f, beta=2.5, gamma=0.3), pull, given.instead, given)


def test_over_a_base_that_is_sure_of_one_token_it_is_npo() -> None:
    given = some_forgotten()
    short = replace(given, forgotten_tokens=torch.ones_like(TOKENS), ref_forgotten=torch.zeros_like(given.forgotten))
    torch.testing.assert_close(simnpo_loss(short, beta=0.7, gamma=0), npo_loss(short, beta=0.7))


def test_a_larger_gamma_pushes_for_longer() -> None:
    given = some_forgotten()
    slopes = [
        torch.autograd.grad(simnpo_loss(given, beta=2.5, gamma=gamma).sum(), given.forgotten)[0] for gamma in (-1, 0, 1)
    ]
    assert (slopes[0] < slopes[1]).all()
    assert (slopes[1] < slopes[2]).all()
