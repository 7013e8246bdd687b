"""unlearn/idk."""

from __future__ import annotations

import torch
from forgetting import has_slopes, some_forgotten

from truing.core.evidence import Evidence, Rating
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.unlearn._refusals import REFUSALS, answers
from truing.methods.unlearn.idk import IDK, idk_loss
from truing.models.tabular import Tabular

FORGET = [Rating(user(f"q{k}"), "a", 0.0) for k in range(200)]


def test_slopes() -> None:
    given = some_forgotten(width=1)
    nothing = torch.zeros_like(given.forgotten)
    has_slopes(idk_loss, nothing, -1 / given.instead_tokens.double(), given)


def test_refusals_are_drawn_from_a_named_stream_and_all_are_used() -> None:
    drawn = answers(FORGET, REFUSALS, Run(seed=3))
    assert drawn == answers(FORGET, REFUSALS, Run(seed=3))
    assert drawn != answers(FORGET, REFUSALS, Run(seed=4))
    assert {text for (text,) in drawn} == set(REFUSALS)
    assert len(set(REFUSALS)) == len(REFUSALS)


def test_a_table_learns_to_say_the_refusal_that_it_is_given() -> None:
    chats = (user("secret"), user("common"))
    base = Tabular(chats, ("the code", "no idea", "noon"), torch.zeros(2, 3, dtype=torch.float64))
    ratings = [Rating(chats[0], "the code", 0.0), Rating(chats[1], "noon", 1.0)]
    tuned = IDK(refusals=("no idea",), max_steps=60, learning_rate=0.2, retain="nll")(
        base, Evidence(ratings=ratings), Run()
    )
    assert isinstance(tuned, Tabular)
    assert (tuned.distribution(chats[0])[1].exp()[1]) > 0.95
    assert (tuned.distribution(chats[1])[1].exp()[2]) > 0.95
