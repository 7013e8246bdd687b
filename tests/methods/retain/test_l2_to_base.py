"""Weights that are drawn back: the gradient, adapters, limits."""

from __future__ import annotations

import pytest
import torch
from keeping import moved, table, trained
from tiny import Notes, make_local, same_weights

from truing.core.run import Run
from truing.methods.retain.l2_to_base import l2_penalty
from truing.models.moved import Move


def test_its_gradient_is_the_weight_times_the_move() -> None:
    one, left = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    right = torch.randn(3, 5, dtype=torch.float64)
    found = torch.autograd.grad(l2_penalty([Move(one), Move(left, right)], weight=0.6), (one, left))
    torch.testing.assert_close(found[0], 0.6 * one.detach())
    torch.testing.assert_close(found[1], 0.6 * left.detach() @ right @ right.T)


def test_a_table_ends_where_pull_and_likelihood_balance() -> None:
    """At the minimum ``weight (logits - logits of the base) = mean over demos of (onehot - p)``, row by row."""
    base, weight = table(), 0.3
    made = trained("retain/l2_to_base", base, weight=weight, max_steps=700, logging_steps=0,
                   per_device_train_batch_size=4, learning_rate=0.05, lr_scheduler_type="cosine")  # fmt: skip
    logits, began = made.weights()["logits"], base.weights()["logits"]
    wanted = torch.zeros_like(logits)
    wanted[:4] = (torch.eye(4, dtype=torch.float64) - logits[:4].softmax(1)) / 4
    torch.testing.assert_close(weight * (logits - began), wanted, rtol=0, atol=5e-4)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_a_larger_weight_moves_it_less_and_none_is_imitation(lora_r: int) -> None:
    base = make_local()
    runs = [trained("retain/l2_to_base", base, weight=w, lora_r=lora_r, max_steps=12) for w in (0.0, 1.0, 30.0)]
    far = [float(moved(made, base).norm()) for made in runs]
    assert far[0] > 1.05 * far[1] > 1.05**2 * far[2] > 0
    assert same_weights(runs[0], trained("imitation/sft", base, lora_r=lora_r, max_steps=12))


def test_what_is_logged_is_the_penalty_before_the_step() -> None:
    notes = Notes()
    trained("retain/l2_to_base", make_local(), Run(log=notes), weight=2.0)
    told = notes.series("penalty/l2")
    assert told[0] == 0
    assert told[1] > 0
