"""unlearn/gradient_ascent."""

from __future__ import annotations

import torch
from forgetting import TOKENS, has_slopes, some_forgotten

from truing.methods.unlearn.gradient_ascent import gradient_ascent_loss


def test_slopes_by_the_token_and_by_the_reply() -> None:
    given = some_forgotten()
    one = torch.ones_like(given.forgotten)
    has_slopes(lambda f: gradient_ascent_loss(f, scale="token"), one / TOKENS, given.instead, given)
    has_slopes(lambda f: gradient_ascent_loss(f, scale="reply"), one, given.instead, given)


def test_it_is_the_opposite_of_imitation() -> None:
    given = some_forgotten()
    torch.testing.assert_close(gradient_ascent_loss(given, scale="reply"), given.forgotten)
    torch.testing.assert_close(gradient_ascent_loss(given, scale="token") * TOKENS, given.forgotten)
