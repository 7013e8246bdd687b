"""unlearn/gradient_difference."""

from __future__ import annotations

import pytest
import torch
from forgetting import TOKENS, has_slopes, some_forgotten
from tiny import same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Rating
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.unlearn.gradient_difference import gradient_difference_loss
from truing.models.local import Local

RATINGS = tuple(Rating(user(f"who is {name}"), f"{name} is in the inn", k % 2) for k, name in enumerate("abcd"))
QUICK = {"max_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 4}


def test_slopes_of_the_forgetting_half() -> None:
    given = some_forgotten()
    one = torch.ones_like(given.forgotten)
    has_slopes(lambda f: gradient_difference_loss(f, scale="token"), one / TOKENS, given.instead, given)
    has_slopes(lambda f: gradient_difference_loss(f, scale="reply"), one, given.instead, given)


def test_it_is_gradient_ascent_that_retains(tiny_policy: Local) -> None:
    def made(name: str, **settings: object) -> Local:
        return build(name, **QUICK, **settings)(tiny_policy, Evidence(ratings=RATINGS), Run())

    both = made("unlearn/gradient_difference")
    assert same_weights(both, made("unlearn/gradient_ascent", retain="nll"))
    assert not same_weights(both, made("unlearn/gradient_ascent"))


def test_it_cannot_be_told_to_retain_nothing() -> None:
    with pytest.raises(InputError, match="retain"):
        build("unlearn/gradient_difference", retain="none")
