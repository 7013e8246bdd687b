"""Lists from judged draws: every draw once with its score, its tokens kept, and nothing where nothing differs."""

from __future__ import annotations

import pytest
import torch
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Ranked
from truing.core.policy import Draw, Sampling, user
from truing.core.run import Run
from truing.judges.function import FunctionJudge
from truing.methods.synthesize.ranked import RankedDraws
from truing.models.tabular import Tabular

CHAT, OTHER = user("which?"), user("and now?")


def test_every_draw_with_its_score() -> None:
    draws = [Draw(f"reply {k}", (k, k + 1)) for k in range(4)]
    assert RankedDraws().propose(CHAT, draws, [0.5, 2.0, -1.0, 2.0]) == [
        Ranked(CHAT, tuple(draws), (0.5, 2.0, -1.0, 2.0))
    ]


def test_what_was_drawn_twice_stands_once_with_its_mean_score() -> None:
    a, b, other = Draw("a", (1, 2)), Draw("b", (3,)), Draw("a", (4,))
    (found,) = RankedDraws().propose(CHAT, [a, b, a, other, b], [1.0, 0.0, 0.0, 0.25, 0.0])
    assert found == Ranked(CHAT, (a, b, other), (0.5, 0.0, 0.25))  # the same text of other tokens is another draw
    (found,) = RankedDraws().propose(CHAT, [Draw("a"), Draw("a"), Draw("b")], [1.0, 3.0, 0.0])
    assert found == Ranked(CHAT, (Draw("a"), Draw("b")), (2.0, 0.0))


def test_a_prompt_without_a_difference_has_no_list() -> None:
    method = RankedDraws()
    assert method.propose(CHAT, [Draw("a", (1,)), Draw("b", (2,))], [1.0, 1.0]) == []
    assert method.propose(CHAT, [Draw("a", (1,)), Draw("a", (1,))], [1.0, 0.0]) == []
    assert method.propose(CHAT, [], []) == []


def test_on_a_table_it_is_the_draws_of_its_stream(notes: Notes) -> None:
    worth = {"a": 3.0, "b": 1.0, "c": -2.0}
    table = Tabular((CHAT, OTHER), tuple(worth), torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]).log())
    judge = FunctionJudge(lambda chats, replies: [worth[reply] for reply in replies])
    run = Run(seed=4, log=notes)
    made = RankedDraws(draws=12)(table, Evidence(prompts=(CHAT, OTHER), judge=judge), run)
    assert made == Evidence(lists=made.lists)
    for item, pool in zip(
        made.lists, table.sample([CHAT, OTHER], n=12, sampling=Sampling(), rng=run.rng("synthesize")), strict=True
    ):
        assert item.replies == tuple(dict.fromkeys(pool))
        assert item.scores == tuple(worth[reply.text] for reply in item.replies if isinstance(reply, Draw))
    assert "2 lists from 24 draws to 2 prompts" in notes.said[-1]


def test_no_prompt_with_a_difference_is_refused() -> None:
    table = Tabular((CHAT,), ("a", "b"), torch.zeros(1, 2))
    judge = FunctionJudge(lambda chats, replies: [0.0] * len(replies))
    with pytest.raises(InputError, match="no prompt has both better and worse draws"):
        RankedDraws()(table, Evidence(prompts=(CHAT,), judge=judge), Run())
