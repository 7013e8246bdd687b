"""IPO against its paper: the population optimum for any preferences, its gradient, its target."""

from __future__ import annotations

import pytest
import torch
from tiny import Notes

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference._family import PairLogps
from truing.methods.preference.ipo import IPO, ipo_loss
from truing.models.local import Local
from truing.models.tabular import Tabular


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# How often the row is preferred to the column; a circle, which no reward explains.
CIRCLE = torch.tensor([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]], dtype=torch.float64)


def test_the_population_optimum_the_paper_derives_is_stationary() -> None:
    """Theorem 1 and Eq. 17: ``log(pi / ref)`` is the chance to beat the sampler's reply over tau, but for a constant.

    No Bradley-Terry model is assumed: the preferences are a circle, and the sampler is uneven.
    """
    tau, sampler, ref = 0.4, double(0.2, 0.5, 0.3), double(0.6, 0.3, 0.1).log()
    best = (ref + CIRCLE @ sampler / tau).log_softmax(0).requires_grad_()
    i, j = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    losses = ipo_loss(PairLogps(best[i], best[j], ref[i], ref[j]), beta=tau)
    risk = (sampler[i] * sampler[j] * CIRCLE[i, j] * losses).sum()
    torch.testing.assert_close(torch.autograd.grad(risk, best)[0], torch.zeros_like(best))


def test_training_a_table_finds_the_optimum() -> None:
    """An even sampler, wins of 9, 3 and 8 in 10."""
    chat, replies, ref, tau = user("q"), ("a", "b", "c"), double(0.6, 0.3, 0.1), 0.4
    pairs = [
        Pair(chat, replies[i], replies[j])
        for i in range(3)
        for j in range(3)
        for _ in range(round(10 * float(CIRCLE[i, j])) if i != j else 0)
    ]
    method = IPO(
        beta=tau, learning_rate=0.2, max_steps=400, per_device_train_batch_size=30, lr_scheduler_type="cosine",
        max_grad_norm=0.0,
    )  # fmt: skip
    tuned = method(Tabular((chat,), replies, ref.log()[None]), Evidence(pairs=pairs), Run())
    assert isinstance(tuned, Tabular)
    wanted = (ref.log() + CIRCLE.mean(1) / tau).softmax(0)
    torch.testing.assert_close(tuned.distribution(chat)[1].exp(), wanted, rtol=0, atol=1e-4)


def test_at_the_base_the_loss_is_the_squared_target() -> None:
    same = double(-3.0, -700.0)
    torch.testing.assert_close(ipo_loss(PairLogps(same, same, same, same), beta=0.1), double(25, 25))


def test_it_vanishes_at_the_target_and_grows_on_both_sides() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    loss = ipo_loss(PairLogps(double(2.5, 3.5, 1.5), zero, zero, zero), beta=0.2)
    torch.testing.assert_close(loss, double(0, 1, 1))


def test_the_gradient_in_closed_form() -> None:
    chosen, rejected = double(-4, -9).requires_grad_(), double(-5, -2).requires_grad_()
    pairs = PairLogps(chosen, rejected, double(-5, -5), double(-4, -4))
    grads = torch.autograd.grad(ipo_loss(pairs, beta=0.25).sum(), (chosen, rejected))
    wanted = 2 * (pairs.margin.detach() - 2)
    torch.testing.assert_close(grads[0], wanted)
    torch.testing.assert_close(grads[1], -wanted)


def test_a_large_beta_is_the_pull_towards_the_base_alone() -> None:
    """The target goes to 0: what is left is the squared margin, whoever was preferred."""
    margin, zero = double(-2, 0.5), torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(ipo_loss(PairLogps(margin, zero, zero, zero), beta=1e12), margin.square())


def test_wide_margins_stay_finite() -> None:
    margin = torch.tensor([1e4, -1e4], requires_grad=True)
    zero = torch.zeros(2)
    loss = ipo_loss(PairLogps(margin, zero, zero, zero), beta=0.1)
    (grad,) = torch.autograd.grad(loss.sum(), margin)
    torch.testing.assert_close(loss.detach(), torch.tensor([9995.0**2, 10005.0**2]))
    torch.testing.assert_close(grad, torch.tensor([2 * 9995.0, -2 * 10005.0]))


def test_beta_is_positive() -> None:
    with pytest.raises(InputError, match="beta"):
        IPO(beta=0.0)


def test_on_a_small_model_the_margin_goes_to_the_target(tiny_policy: Local, notes: Notes) -> None:
    """beta 0.5: one nat, and no further."""
    pairs = [Pair(user("name a tool"), "a saw", "no"), Pair(user("say hi"), "hi there", "x")]
    method = IPO(beta=0.5, learning_rate=2e-3, max_steps=60, per_device_train_batch_size=2, logging_steps=1)
    tuned = method(tiny_policy, Evidence(pairs=pairs), Run(log=notes))
    assert notes.rows[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert notes.rows[0]["rewards/accuracies"] == 0.5
    chats = [pair.prompt for pair in pairs]
    margin = 0.0
    for sign, replies in ((1, [pair.chosen for pair in pairs]), (-1, [pair.rejected for pair in pairs])):
        margin = margin + sign * (tuned.logprob(chats, replies) - tiny_policy.logprob(chats, replies))
    torch.testing.assert_close(margin, double(1, 1), rtol=0, atol=0.1)
