"""Replay: what is mixed in, how often, and what it holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from keeping import CHATS, DEMOS, GIVEN, PAIRS, table, trained
from tiny import Notes, make_local, same_weights

from truing.core.evidence import Demo, Evidence
from truing.core.method import build
from truing.core.run import Run
from truing.methods.retain._family import Tokens
from truing.methods.retain.replay import replay_loss


def test_the_loss_of_a_replayed_token() -> None:
    tokens = Tokens(torch.tensor([-1.0, -2.0]), torch.tensor([0.25, 0.5]))
    assert replay_loss(tokens, by="nll", weight=3.0).tolist() == [3.0, 6.0]
    assert replay_loss(tokens, by="kl", weight=2.0).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(("share", "count"), [(0.2, 1), (0.5, 4), (0.75, 12), (0.01, 1)])
def test_an_epoch_holds_their_share_each_as_often_as_any_other(share: float, count: int) -> None:
    base = make_local()
    trees = base.encode_many([demo.prompt for demo in DEMOS], [(demo.reply,) for demo in DEMOS])
    held = build("retain/replay", share=share, keep="chosen").hold(base, trees, GIVEN, Run())
    assert len(held.replayed) == count
    times = Counter(held.replayed)
    assert max(times.values()) - min(times.get(tree, 0) for tree in base.encode_many(
        [pair.prompt for pair in PAIRS], [(pair.chosen,) for pair in PAIRS])) <= 1  # fmt: skip


def test_by_likelihood_it_is_imitation_of_the_mixture() -> None:
    """A step of all examples: the same loss and the same weights as of demonstrations and replies in one list."""
    base = make_local()
    settings: dict[str, Any] = {"per_device_train_batch_size": 99, "max_steps": 3}
    one = trained("retain/replay", base, share=3 / 7, keep="chosen", **settings)
    mixed = Evidence(demos=(*DEMOS, *(Demo(pair.prompt, pair.chosen) for pair in PAIRS)))
    other = trained("imitation/sft", base, given=mixed, **settings)
    for name, tensor in one.weights().items():
        torch.testing.assert_close(tensor, other.weights()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("by", ["nll", "kl"])
def test_it_holds_the_prompts_that_it_replays(by: str) -> None:
    """On a table that shares nothing between prompts, by putting the demonstrations' own prompts among them."""
    base = table()
    given = Evidence(demos=DEMOS, prompts=CHATS)
    settings: dict[str, Any] = {"given": given, "max_steps": 40, "learning_rate": 0.05}
    free = trained("imitation/sft", base, **settings).logprob(CHATS, [demo.reply for demo in DEMOS]).sum()
    held = trained("retain/replay", base, share=0.9, by=by, weight=5.0, **settings)
    assert held.logprob(CHATS, [demo.reply for demo in DEMOS]).sum() < free - 0.5


def test_by_kl_the_base_loses_nothing_where_only_it_is_replayed() -> None:
    """Weight on the task is 0 where all that counts is the KL: at the base its gradient is 0."""
    base, notes = make_local(), Notes()
    trained("retain/replay", base, Run(log=notes), share=0.5, by="kl")
    assert notes.series("logps/replayed")
    assert notes.rows[0]["kl_per_token"] == pytest.approx(0, abs=1e-6)


def test_share_zero_is_imitation_and_the_base_is_asked_once_by_name() -> None:
    base = make_local()
    assert same_weights(trained("retain/replay", base, share=0.0), trained("imitation/sft", base))
    first, again = (trained("retain/replay", base, share=0.5, run=Run(seed=4)) for _ in range(2))
    assert same_weights(first, again)
    assert not same_weights(first, trained("retain/replay", base, share=0.5, run=Run(seed=5)))
