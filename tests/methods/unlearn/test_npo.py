"""unlearn/npo: its weight, its limit, and how slowly it goes on."""

from __future__ import annotations

import math

import pytest
import torch
from forgetting import at, double, has_slopes, some_forgotten

from truing.methods.unlearn._family import ForgetLogps
from truing.methods.unlearn.gradient_ascent import gradient_ascent_loss
from truing.methods.unlearn.npo import npo_loss

BASE = double(0.1, 0.4, 0.2, 0.25, 0.05).log()


def test_slopes() -> None:
    given = some_forgotten()
    has_slopes(lambda f: npo_loss(f, beta=0.3), 2 * torch.sigmoid(0.3 * given.ratio), given.instead, given)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_on_a_table_the_gradient_is_w_times_that_of_the_log_probability(beta: float) -> None:
    """``W (e_k - p)`` in the logits, ``W = 2 p^beta / (p^beta + base^beta)``: eq. 5 of the paper, five replies."""
    logits = double(0.7, -1.2, 0.1, 0.4, 2.0).requires_grad_()
    policy = logits.log_softmax(0)
    (found,) = torch.autograd.grad(npo_loss(at(policy, BASE, 3), beta=beta).sum(), logits)
    p, q = policy.detach().exp(), BASE.exp()
    weight = 2 * p[3] ** beta / (p[3] ** beta + q[3] ** beta)
    wanted = weight * (torch.eye(5, dtype=torch.float64)[3] - p)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_it_begins_with_the_weight_one() -> None:
    leaf = BASE.clone().requires_grad_()
    (found,) = torch.autograd.grad(npo_loss(at(leaf, BASE, 1), beta=0.7).sum(), leaf)
    torch.testing.assert_close(found, double(0, 1, 0, 0, 0))


def test_as_beta_goes_to_0_it_is_gradient_ascent_on_sums() -> None:
    """Value, less a constant and the base's, and gradient; both are wrong by beta h / 4 and beta h / 2 at most."""
    given = some_forgotten()
    beta = 1e-4
    loss = npo_loss(given, beta=beta) - 2 / beta * math.log(2)
    ascent = gradient_ascent_loss(given, scale="reply")
    torch.testing.assert_close(loss, ascent - given.ref_forgotten, rtol=0, atol=1e-3)
    slopes = [torch.autograd.grad(each.sum(), given.forgotten)[0] for each in (loss, ascent)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-3)


def theta(steps: int, beta: float | None) -> float:
    """One parameter, one reply of probability sigmoid(theta), descent by steps of 1; gradient ascent without a beta."""
    here = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    base, one, none = here.detach().sigmoid().log(), torch.tensor([1]), torch.zeros(1, 0, dtype=torch.float64)
    for _ in range(steps):
        given = ForgetLogps(torch.nn.functional.logsigmoid(here), base, one, none, none, none)
        loss = gradient_ascent_loss(given, scale="reply") if beta is None else npo_loss(given, beta=beta)
        (slope,) = torch.autograd.grad(loss.sum(), here)
        here.data -= slope
    return here.item()


def test_it_diverges_with_the_logarithm_of_time_and_gradient_ascent_with_time() -> None:
    """Theorem 2 in one dimension: at late times ``theta = -log(2 beta t) / beta`` against ``-t``."""
    assert theta(800, None) / 800 == pytest.approx(-1, abs=0.01)
    for beta in (0.5, 1.0):
        early, late = theta(500, beta), theta(2000, beta)
        assert late - early == pytest.approx(-math.log(4) / beta, rel=0.05)
        assert late == pytest.approx(-math.log(2 * beta * 2000) / beta, rel=0.15)
