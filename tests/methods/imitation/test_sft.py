"""SFT is the forward-KL projection on the demonstrations: on a table, their frequencies."""

from __future__ import annotations

import pytest
import torch
from tiny import Notes, make_local

from truing.core.evidence import Demo, Evidence
from truing.core.policy import Draw, Sampling, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.methods.imitation.sft import SFT, sft_loss
from truing.models.local import Local
from truing.models.tabular import Tabular


def test_the_loss_is_the_negative_log_likelihood() -> None:
    tokens = torch.tensor([-0.5, -1e4, 0.0], requires_grad=True)
    torch.testing.assert_close(sft_loss(tokens).detach(), torch.tensor([0.5, 1e4, 0.0]))
    (grad,) = torch.autograd.grad(sft_loss(tokens).sum(), tokens)
    torch.testing.assert_close(grad, -torch.ones(3))


def test_a_table_learns_the_frequencies_of_the_demonstrations() -> None:
    """Of each prompt by itself; a prompt without demonstrations stays as it was."""
    first, second, third = user("one"), user("two"), user("three")
    replies, start = ("a", "b", "c"), torch.tensor([[0.8, 0.1, 0.1]] * 3, dtype=torch.float64)
    demos = [Demo(first, r) for r in "aabc"] + [Demo(second, r) for r in "ccccbbba"]
    method = SFT(
        learning_rate=0.2, max_steps=400, per_device_train_batch_size=12, lr_scheduler_type="cosine", max_grad_norm=0.0
    )
    tuned = method(Tabular((first, second, third), replies, start.log()), Evidence(demos=demos), Run())
    assert isinstance(tuned, Tabular)
    for chat, wanted in ((first, [0.5, 0.25, 0.25]), (second, [1 / 8, 3 / 8, 1 / 2]), (third, [0.8, 0.1, 0.1])):
        found = tuned.distribution(chat)[1].exp()
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-4)


def test_the_frequencies_are_stationary() -> None:
    """The gradient of the cross-entropy at the empirical distribution is nought."""
    counts = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)
    logits = (counts / counts.sum()).log().requires_grad_()
    risk = (counts * sft_loss(logits.log_softmax(0))).sum()
    torch.testing.assert_close(torch.autograd.grad(risk, logits)[0], torch.zeros_like(logits))


@pytest.fixture(scope="module")
def taught() -> tuple[Local, Local]:
    base = make_local()
    demos = [Demo(user("what is it"), "a thin saw"), Demo(user("who"), "the\nking")]
    method = SFT(learning_rate=1e-2, max_steps=40, per_device_train_batch_size=2, weight_decay=0.0)
    tuned = method(base, Evidence(demos=demos), Run())
    assert isinstance(tuned, Local)
    return base, tuned


def test_a_small_model_says_what_it_was_shown_and_stops(taught: tuple[Local, Local]) -> None:
    """End to end: template, end of turn, training and drawing agree."""
    chats = [user("who"), user("what is it")]
    greedy = Sampling(temperature=0.0, max_new_tokens=30)
    base, tuned = taught
    (who,), (what,) = tuned.sample(chats, n=1, sampling=greedy, rng=Rng(0))
    assert (who.text, who.finish) == ("the\nking", "stop")
    assert (what.text, what.finish) == ("a thin saw", "stop")
    assert [row[0].text for row in base.sample(chats, n=1, sampling=greedy, rng=Rng(0))] != [who.text, what.text]


def test_a_demonstration_by_its_tokens_is_never_tokenised_again(notes: Notes) -> None:
    """``t``, ``h``, ``e`` drawn one by one is another reply than the piece ``the``."""
    base = make_local()
    letters = tuple(base.tokenizer.convert_tokens_to_ids(c) for c in ("t", "h", "e", "<end>"))
    whole = base.encode(user("q"), ("the",)).replies[0]
    assert base.tokenizer.decode(letters[:3]) == base.tokenizer.decode(whole[:1]) == "the"
    method = SFT(learning_rate=1e-2, max_steps=30, per_device_train_batch_size=1, logging_steps=1)
    tuned = method(base, Evidence(demos=[Demo(user("q"), Draw("the", letters))]), Run(log=notes))
    (draw,) = tuned.sample([user("q")], n=1, sampling=Sampling(temperature=0.0, max_new_tokens=9), rng=Rng(0))[0]
    assert draw.token_ids == letters
    assert notes.rows[0]["num_tokens"] == len(base.encode(user("q"), ()).prompt) + 4
