"""DPO against its paper: optimum, gradient, limits; then trained, on a table and on a small model."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import DPO, dpo_loss
from truing.models.local import Local
from truing.models.tabular import Tabular

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_optimum_the_paper_derives_is_stationary() -> None:
    """Eq. 4: ``ref * exp(reward / beta)``. Four replies, so the risk is a sum over every ordered pair."""
    beta, reward = 0.5, double(0.0, 1.0, -2.0, 0.3)
    ref = double(0.1, 0.2, 0.3, 0.4).log()
    best = (ref + reward / beta).log_softmax(0).requires_grad_()
    i, j = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    risk = torch.sigmoid(reward[i] - reward[j]) * dpo_loss(
        PairLogps(best[i], best[j], ref[i], ref[j]), beta=beta, label_smoothing=0
    )
    torch.testing.assert_close(torch.autograd.grad(risk.sum(), best)[0], torch.zeros_like(best))


def test_training_a_table_finds_the_optimum() -> None:
    """Preferences of strengths 4 : 2 : 1 (2/3, 4/5, 2/3 of the comparisons) under beta 1/2: ``ref * strength ** 2``."""
    chat, replies, ref = user("q"), ("a", "b", "c"), double(0.2, 0.3, 0.5)
    counts = {("a", "b"): (2, 1), ("a", "c"): (4, 1), ("b", "c"): (2, 1)}
    pairs = [Pair(chat, x, y) for (x, y), (wins, _) in counts.items() for _ in range(wins)]
    pairs += [Pair(chat, y, x) for (x, y), (_, losses) in counts.items() for _ in range(losses)]
    method = DPO(
        beta=0.5, learning_rate=0.2, max_steps=400, per_device_train_batch_size=11, lr_scheduler_type="cosine",
        max_grad_norm=0.0,
    )  # fmt: skip
    base = Tabular((chat,), replies, ref.log()[None])
    tuned = method(base, Evidence(pairs=pairs), Run())
    assert isinstance(tuned, Tabular)
    wanted = ref * double(16, 4, 1)
    torch.testing.assert_close(tuned.distribution(chat)[1].exp(), wanted / wanted.sum(), rtol=0, atol=1e-4)


def test_at_the_base_the_loss_is_log_2_whatever_the_replies() -> None:
    same = double(-3.0, -700.0)
    loss = dpo_loss(PairLogps(same, same - 5, same, same - 5), beta=0.7, label_smoothing=0)
    torch.testing.assert_close(loss, double(math.log(2), math.log(2)))


def test_the_gradient_is_the_papers() -> None:
    """Weighted by how wrong the implicit reward is: ``-beta sigmoid(-beta margin)``, and its opposite."""
    beta, chosen, rejected = 0.3, double(-4, -9, -1).requires_grad_(), double(-5, -2, -8).requires_grad_()
    pairs = PairLogps(chosen, rejected, double(-5, -5, -5), double(-4, -4, -4))
    grads = torch.autograd.grad(dpo_loss(pairs, beta=beta, label_smoothing=0).sum(), (chosen, rejected))
    wanted = -beta / (1 + (beta * pairs.margin.detach()).exp())
    torch.testing.assert_close(grads[0], wanted)
    torch.testing.assert_close(grads[1], -wanted)


def test_limits_in_beta() -> None:
    """Small: log 2 less half the scaled margin. Large: the hinge on a margin below zero."""
    margin, zero = double(-2, -0.1, 0.4, 3), torch.zeros(4, dtype=torch.float64)
    pairs = PairLogps(margin, zero, zero, zero)
    torch.testing.assert_close(
        (math.log(2) - dpo_loss(pairs, beta=1e-5, label_smoothing=0)) / 1e-5, margin / 2, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        dpo_loss(pairs, beta=1e4, label_smoothing=0) / 1e4, (-margin).clamp_min(0), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_margins_stay_finite(dtype: torch.dtype) -> None:
    margin = torch.tensor([1e4, -1e4, 1e6, -1e6], dtype=dtype, requires_grad=True)
    zero = torch.zeros(4, dtype=dtype)
    loss = dpo_loss(PairLogps(margin, zero, zero, zero), beta=1.0, label_smoothing=0)
    (grad,) = torch.autograd.grad(loss.sum(), margin)
    torch.testing.assert_close(loss.detach(), torch.tensor([0, 1e4, 0, 1e6], dtype=dtype))
    torch.testing.assert_close(grad, torch.tensor([0, -1, 0, -1], dtype=dtype))


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_beta_is_positive(beta: float) -> None:
    with pytest.raises(InputError, match="beta"):
        DPO(beta=beta)


class TestOnASmallModel:
    METHOD = DPO(
        learning_rate=3e-3, max_steps=12, per_device_train_batch_size=4, logging_steps=1, lr_scheduler_type="constant"
    )

    def test_it_begins_at_log_2_with_ties_and_ends_right(self, tiny_policy: Local, notes: Notes) -> None:
        tuned = self.METHOD(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
        first, last = notes.rows[0], notes.rows[-1]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert first["rewards/accuracies"] == 0.5
        assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
        assert last["rewards/accuracies"] == 1.0
        assert last["loss"] < 0.5
        # The last row was measured before the last update; from outside the margins are wider still.
        chats = [pair.prompt for pair in PAIRS]
        gains = [
            tuned.logprob(chats, replies) - tiny_policy.logprob(chats, replies)
            for replies in ([pair.chosen for pair in PAIRS], [pair.rejected for pair in PAIRS])
        ]
        assert 0.1 * float((gains[0] - gains[1]).mean()) > last["rewards/margins"] > 0

    def test_logged_log_probabilities_are_the_policys(self, tiny_policy: Local, notes: Notes) -> None:
        self.METHOD(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
        for name in ("chosen", "rejected"):
            sums = tiny_policy.logprob([pair.prompt for pair in PAIRS], [getattr(pair, name) for pair in PAIRS])
            assert notes.rows[0][f"logps/{name}"] == pytest.approx(float(sums.mean()), abs=1e-4)

    def test_the_cached_reference_changes_nothing(self, tiny_policy: Local, tmp_path: object) -> None:
        from pathlib import Path

        run = Run(cache=Path(str(tmp_path)))
        outcomes = [self.METHOD(tiny_policy, Evidence(pairs=PAIRS), each) for each in (Run(), run, run)]
        assert same_weights(outcomes[0], outcomes[1])
        assert same_weights(outcomes[1], outcomes[2])
