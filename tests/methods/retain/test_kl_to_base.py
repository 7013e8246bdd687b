"""Imitation held by the base's distribution: where it ends, and its limits."""

from __future__ import annotations

import pytest
import torch
from keeping import CHATS, DEMOS, table, trained
from tiny import Notes, make_local, same_weights

from truing.core.run import Run
from truing.methods.retain._family import Tokens
from truing.methods.retain.kl_to_base import kl_to_base_loss


def test_its_gradient_in_the_logits_is_what_the_docstring_says() -> None:
    logits, base = (torch.randn(3, 5, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    targets, weight = torch.tensor([0, 4, 2]), 0.7
    policy, ref = logits.log_softmax(1), base.log_softmax(1)
    tokens = Tokens(policy.gather(1, targets[:, None])[:, 0], (ref.exp() * (ref - policy)).sum(1))
    (found,) = torch.autograd.grad(kl_to_base_loss(tokens, weight=weight).sum(), logits)
    onehot = torch.nn.functional.one_hot(targets, 5)
    torch.testing.assert_close(found, (policy.exp() - onehot + weight * (policy.exp() - ref.exp())).detach())


def test_a_table_ends_at_the_mixture() -> None:
    """Closed form: ``p = (onehot + weight p_base) / (1 + weight)``."""
    base, weight = table(), 0.8
    made = trained("retain/kl_to_base", base, weight=weight, max_steps=700, logging_steps=0,
                   per_device_train_batch_size=4, learning_rate=0.05, lr_scheduler_type="cosine")  # fmt: skip
    began = base.weights()["logits"].softmax(1)
    wanted = (torch.eye(4, dtype=torch.float64) + weight * began[:4]) / (1 + weight)
    torch.testing.assert_close(made.weights()["logits"][:4].softmax(1), wanted, rtol=0, atol=5e-4)
    torch.testing.assert_close(made.weights()["logits"][4:], base.weights()["logits"][4:])


@pytest.mark.parametrize("lora_r", [0, 2])
def test_without_weight_it_is_imitation_to_the_bit(lora_r: int) -> None:
    base = make_local()
    one, other = (trained(name, base, weight=0.0, lora_r=lora_r) for name in ("retain/kl_to_base", "imitation/sft"))
    assert same_weights(one, other)


def test_the_divergence_is_logged_and_held() -> None:
    base, far = make_local(), []
    for weight in (0.1, 10.0):
        notes = Notes()
        made = trained("retain/kl_to_base", base, Run(log=notes), weight=weight, max_steps=12)
        assert notes.series("kl_per_token")[0] == pytest.approx(0, abs=1e-6)
        far.append(notes.series("kl_per_token")[-1])
        assert made.logprob(CHATS, [demo.reply for demo in DEMOS]).sum() > base.logprob(
            CHATS, [demo.reply for demo in DEMOS]).sum()  # fmt: skip
    assert far[0] > 2 * far[1]
