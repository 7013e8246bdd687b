"""preference/c_adv_ipo."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from objectives import from_tokens, some_pairs
from tiny import Notes, make_exact, make_local

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference.c_adv_ipo import CAdvIPO, c_adv_ipo_loss
from truing.methods.preference.ipo import IPO, ipo_loss
from truing.methods.preference.mpo import MPO
from truing.models.local import Local
from truing.models.tabular import Tabular

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)
QUICK = CAdvIPO(
    learning_rate=3e-3, max_steps=4, per_device_train_batch_size=4, logging_steps=1, warmup_ratio=0,
    attack_epsilon=0.2, attack_step_size=5e-3, attack_steps=4, rejected_cut=-1e6,
)  # fmt: skip


def token_pairs() -> tuple[torch.Tensor, PairLogps]:
    leaf = -torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.1
    base = leaf + 0.3
    leaf[6] = -5.5  # the second token of the rejected reply that follows
    leaf.requires_grad_()
    return leaf, from_tokens(leaf, base, [5, 4])


def test_slopes_on_tokens_and_none_on_those_that_are_cut() -> None:
    leaf, pairs = token_pairs()
    loss = c_adv_ipo_loss(pairs, beta=0.25, chosen_cut=0.0, rejected_cut=-5.0)
    (found,) = torch.autograd.grad(loss.sum(), leaf)
    values = leaf.detach().clone()
    values[6] = 0.0
    base = pairs.by_token.reference
    short = values[:5].mean() - base[:5].mean() - values[5:].sum() / 4 + base[5:].mean() - 2
    torch.testing.assert_close(loss[0], short.square())
    slopes = torch.cat([(2 * short / 5).expand(5), (-2 * short / 4).expand(4)])
    slopes[6] = 0.0
    torch.testing.assert_close(found, slopes)


def test_a_cut_of_the_chosen_reply_leaves_its_sure_tokens() -> None:
    leaf, pairs = token_pairs()
    loss = c_adv_ipo_loss(pairs, beta=0.25, chosen_cut=-0.5, rejected_cut=-5.0)
    (found,) = torch.autograd.grad(loss.sum(), leaf)
    assert torch.equal(found[:5] == 0, leaf.detach()[:5] > -0.5)
    assert 0 < (found[:5] == 0).sum() < 5


def test_without_cuts_it_is_ipo_of_means() -> None:
    leaf, pairs = token_pairs()
    ours = c_adv_ipo_loss(pairs, beta=0.25, chosen_cut=0.0, rejected_cut=-1e6).sum()
    mean = ipo_loss(pairs.averaged(), beta=0.25).sum()
    torch.testing.assert_close(ours, mean)
    torch.testing.assert_close(*(torch.autograd.grad(loss, leaf)[0] for loss in (ours, mean)))


@dataclass(frozen=True, kw_only=True)
class MeanIPO(PreferenceMethod):
    """IPO of means over tokens, on prompts that nobody attacks."""

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        return ipo_loss(pairs.averaged(), beta=0.25)


def test_at_no_radius_training_is_that_of_mean_ipo(tiny_policy: Local) -> None:
    shared = ("learning_rate", "max_steps", "per_device_train_batch_size", "warmup_ratio")
    clean = MeanIPO(**{name: getattr(QUICK, name) for name in shared})(tiny_policy, Evidence(pairs=PAIRS), Run())
    ours = replace(QUICK, attack_epsilon=0.0)(tiny_policy, Evidence(pairs=PAIRS), Run())
    attacked = QUICK(tiny_policy, Evidence(pairs=PAIRS), Run())
    apart = 0.0
    for name, tensor in clean.weights().items():
        torch.testing.assert_close(ours.weights()[name], tensor, rtol=0, atol=1e-6)
        apart = max(apart, (attacked.weights()[name] - tensor).abs().max().item())
    assert apart > 1e-3


def test_on_a_table_without_a_radius_it_is_ipo() -> None:
    """Replies of one token: sums are means."""
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = Tabular((user("a"), user("b")), tuple("xyz"), logits)
    pairs = (Pair(user("a"), "x", "y"), Pair(user("b"), "z", "x"))
    made = [
        kind(beta=0.25, learning_rate=0.1, max_steps=5, per_device_train_batch_size=2, **more)(
            base, Evidence(pairs=pairs), Run()
        ).weights()["logits"]
        for kind, more in ((IPO, {}), (CAdvIPO, {"attack_epsilon": 0.0}), (CAdvIPO, {"attack_step_size": 0.1}))
    ]
    torch.testing.assert_close(made[0], made[1])
    assert (made[0] - made[2]).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma"])
def test_the_cut_into_forward_passes_changes_nothing(architecture: str) -> None:
    base = make_exact("llama") if architecture == "llama" else make_local(architecture, dtype=torch.float64)
    logs = []
    for tokens in (20, 2048):
        notes = Notes()
        replace(QUICK, tokens_per_batch=tokens, eval_fraction=0.25, eval_steps=2)(
            base, Evidence(pairs=PAIRS * 2), Run(log=notes)
        )
        logs.append(notes)
    for name in ("loss", "grad_norm", "eval_loss", "rewards/margins"):
        assert logs[0].series(name) == pytest.approx(logs[1].series(name), rel=1e-3, abs=1e-5), name


def test_the_attack_makes_the_first_loss_larger(tiny_policy: Local) -> None:
    """At the base every clean margin is 0 and the loss the square of the target; an attack widens it."""
    first = []
    for epsilon in (0.0, 0.2, 0.4):
        notes = Notes()
        replace(QUICK, attack_epsilon=epsilon, attack_step_size=2e-2)(
            tiny_policy, Evidence(pairs=PAIRS), Run(log=notes)
        )
        first.append(notes.series("loss")[0])
    assert first[0] == pytest.approx(4.0, abs=1e-4)
    assert first[0] < first[1] < first[2]


def test_rewards_are_of_means() -> None:
    pairs = some_pairs()
    chosen, _ = CAdvIPO().rewards(pairs)
    torch.testing.assert_close(chosen, 0.25 * pairs.chosen_ratio / pairs.chosen_tokens)


def test_a_sum_of_losses_refuses_an_attack() -> None:
    with pytest.raises(InputError, match="perturbation of its own"):
        MPO(loss_type=("dpo", "c_adv_ipo"), loss_weights=(1.0, 1.0))
