"""preference/c_adv_ul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from objectives import double, from_tokens
from tiny import Notes, make_exact, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Demo, Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.core.trees import Tree
from truing.methods.imitation.sft import SFT
from truing.methods.preference.c_adv_ul import CAdvUL, c_adv_ul_loss, floored
from truing.models.local import Local
from truing.models.tabular import Tabular

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)
DEMOS = tuple(Demo(user(prompt), reply) for prompt, reply in (("what", "a thing"), ("in", "the in"), ("who", "none")))
GIVEN = Evidence(pairs=PAIRS, demos=DEMOS)
QUICK = CAdvUL(
    learning_rate=3e-3, max_steps=4, per_device_train_batch_size=4, logging_steps=1, warmup_ratio=0,
    attack_epsilon=0.2, attack_step_size=5e-3, attack_steps=4, utility_share=0.5,
)  # fmt: skip
WEIGHTS = {"away_weight": 0.5, "toward_weight": 0.25, "utility_weight": 2.0, "away_floor": -5.0, "toward_floor": 0.5}


def losses(policy: torch.Tensor, counts: list[int], away: str = "ascent", **settings: float) -> torch.Tensor:
    pairs = from_tokens(policy, torch.full_like(policy, torch.nan), counts)
    return c_adv_ul_loss(pairs, away=away, **{**WEIGHTS, **settings})  # type: ignore[arg-type] # one of two words


def test_by_hand() -> None:
    """A pair of two tokens and one, and a demonstration of two."""
    leaf = double(-1.0, -2.0, -3.0, -0.25, -0.75).requires_grad_()
    found = losses(leaf, [2, 1, 2, 0])
    torch.testing.assert_close(found, double(0.5 * -3.0 + 0.25 * 1.5, 2.0 * 0.5))
    (slopes,) = torch.autograd.grad(found.sum(), leaf)
    torch.testing.assert_close(slopes, double(-0.125, -0.125, 0.5, -1.0, -1.0))


def test_below_a_floor_a_thousandth_of_the_slope_is_left() -> None:
    leaf = double(-0.3, -6.0).requires_grad_()
    found = losses(leaf, [1, 1])
    torch.testing.assert_close(found, double(0.5 * (-5.0 - 0.006) + 0.25 * (0.5 + 0.0003)))
    (slopes,) = torch.autograd.grad(found.sum(), leaf)
    torch.testing.assert_close(slopes, double(-0.25e-3, 0.5e-3))
    torch.testing.assert_close(floored(double(-4.0, -5.0), -5.0), double(-4.0, -5.0))


def test_unlikelihood_is_of_each_token_and_leaves_those_below_the_floor() -> None:
    leaf = double(-1.0, math.log(0.5), math.log(0.2), -5.5).requires_grad_()
    found = losses(leaf, [1, 3], away="unlikelihood", toward_weight=0.0, away_weight=1.0)
    torch.testing.assert_close(found, double(-(math.log(0.5) + math.log(0.8)) / 3))
    (slopes,) = torch.autograd.grad(found.sum(), leaf)
    torch.testing.assert_close(slopes, double(0.0, 1.0 / 3, 0.25 / 3, 0.0))


def test_at_no_radius_on_a_table_training_is_clean_unlikelihood() -> None:
    """The same steps by hand, with AdamW of the same rates."""
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    base = Tabular((user("a"), user("b")), tuple("xyz"), logits)
    given = Evidence(pairs=(Pair(user("a"), "x", "y"), Pair(user("b"), "z", "x")))
    method = CAdvUL(
        attack_epsilon=0.0, utility_share=0.0, away="unlikelihood", learning_rate=0.1, max_steps=3,
        warmup_ratio=0, lr_scheduler_type="constant", per_device_train_batch_size=2, max_grad_norm=0,
    )  # fmt: skip
    leaf = logits.clone().requires_grad_()
    optimiser = torch.optim.AdamW([leaf], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        table = leaf.log_softmax(1)
        toward = -table[[0, 1], [0, 2]]
        toward = torch.where(toward < 0.5, 0.5 + 0.001 * toward, toward)
        loss = (0.5 * -torch.log1p(-table[[0, 1], [1, 0]].exp()) + 0.5 * toward).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = method(base, given, Run()).weights()["logits"]
    torch.testing.assert_close(found, leaf.detach())
    attacked = replace(method, attack_epsilon=0.3, attack_step_size=0.1)(base, given, Run()).weights()["logits"]
    assert (attacked - found).abs().max() > 1e-3


def test_utility_alone_is_imitation_by_examples(tiny_policy: Local) -> None:
    """Demonstrations of one length, all in every step: a mean over examples is one over tokens."""
    same = tuple(Demo(user(prompt), reply) for prompt, reply in (("what", "abc"), ("who", "xyz")))
    shared = {"learning_rate": 1e-3, "max_steps": 3, "warmup_ratio": 0.0, "max_grad_norm": 0.0}
    method = CAdvUL(
        **shared,
        away_weight=0.0,
        toward_weight=0.0,
        utility_weight=2.0,
        utility_share=0.5,
        attack_steps=0,
        per_device_train_batch_size=4,
    )  # type: ignore[arg-type] # numbers all
    ours = method(tiny_policy, Evidence(pairs=PAIRS[:2], demos=same), Run())  # a mean over four, two of which are 0
    theirs = SFT(**shared, per_device_train_batch_size=2)(tiny_policy, Evidence(demos=same), Run())  # type: ignore[arg-type] # as above
    for name, tensor in theirs.weights().items():
        torch.testing.assert_close(ours.weights()[name], tensor, rtol=0, atol=1e-5)
    assert not same_weights(ours, tiny_policy)


def test_demonstrations_make_up_their_share_each_as_often_as_any_other(tiny_policy: Local) -> None:
    trees = list(replace(QUICK, utility_share=0.6).trees(tiny_policy, GIVEN, Run()))
    alone: list[Tree] = [tree for tree in trees if not tree.replies[1]]
    assert len(trees) == 10
    counts: Sequence[int] = sorted(alone.count(tree) for tree in set(alone))
    assert counts == [2, 2, 2]
    assert replace(QUICK, utility_share=0.6).trees(tiny_policy, GIVEN, Run(seed=1)) != trees


def test_demonstrations_are_not_attacked(tiny_policy: Local) -> None:
    bench = tiny_policy.open()
    trees = QUICK.trees(tiny_policy, GIVEN, Run())
    mixed = [trees[0], trees[-1], trees[1]]
    sizes = [len(tree.prompt) for tree in mixed]
    first, calm, last = QUICK.perturbation(bench, mixed).split(sizes)
    assert not calm.any()
    assert first.any()
    assert last.any()
    assert not QUICK.perturbation(bench, [trees[-1]]).any()


def test_the_cut_changes_nothing_and_pairs_alone_are_logged() -> None:
    base, logs = make_exact("llama"), []
    for tokens in (20, 2048):
        notes = Notes()
        replace(QUICK, tokens_per_batch=tokens, eval_fraction=0.25, eval_steps=2)(base, GIVEN, Run(log=notes))
        logs.append(notes)
    for name in ("loss", "grad_norm", "eval_loss", "logps/rejected", "lengths/rejected"):
        assert logs[0].series(name) == pytest.approx(logs[1].series(name), rel=1e-3, abs=1e-5), name
    assert min(logs[0].series("lengths/rejected")) >= 2


def test_without_demonstrations_it_refuses_unless_none_are_wanted(tiny_policy: Local) -> None:
    with pytest.raises(InputError, match="no demonstrations"):
        QUICK(tiny_policy, Evidence(pairs=PAIRS), Run())
    replace(QUICK, utility_share=0.0, max_steps=1)(tiny_policy, Evidence(pairs=PAIRS), Run())
