"""preference/aot."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from objectives import double, has_slopes, some_pairs
from tiny import Notes

from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference.aot import AOT, aot_loss, matched_margins
from truing.methods.preference.dpo import dpo_loss
from truing.models.local import Local

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)


def test_no_other_matching_of_the_steps_margins_costs_less() -> None:
    """Optimal transport in one dimension, against every one of 120 permutations."""
    pairs = some_pairs()
    base = pairs.ref_chosen - pairs.ref_rejected
    costs = [
        aot_loss(pairs, base[list(order)], beta=0.3, label_smoothing=0).sum().item() for order in permutations(range(5))
    ]
    ours = aot_loss(pairs, matched_margins(pairs).detach(), beta=0.3, label_smoothing=0).sum().item()
    assert ours == pytest.approx(min(costs), abs=1e-12)
    assert max(costs) > ours + 0.1


def test_sorted_margins_by_hand() -> None:
    """The policy's 5, -1, 2 are third, first, second; the base's are 0, 3, 1."""
    zero = torch.zeros(3, dtype=torch.float64)
    pairs = replace(some_pairs(), chosen=double(5, -1, 2), rejected=zero, ref_chosen=double(0, 3, 1), ref_rejected=zero)
    torch.testing.assert_close(matched_margins(pairs), double(3, 0, 1))


def test_slopes() -> None:
    pairs = some_pairs()
    matched = matched_margins(pairs).detach()
    apart = (pairs.chosen - pairs.rejected - matched).detach()
    pull = -0.3 * (torch.sigmoid(-0.3 * apart) - 0.1)
    has_slopes(lambda p: aot_loss(p, matched, beta=0.3, label_smoothing=0.1), pull, -pull, pairs)


def test_the_gradient_of_the_sorted_sum_is_that_of_the_fixed_matching() -> None:
    """Sorting inside the graph, as the definition has it: the permutation is locally constant."""
    pairs = some_pairs()
    base = (pairs.ref_chosen - pairs.ref_rejected).sort().values
    matched = matched_margins(pairs).detach()
    whole = torch.nn.functional.softplus(-0.3 * ((pairs.chosen - pairs.rejected).sort().values - base)).sum()
    wanted = torch.autograd.grad(whole, (pairs.chosen, pairs.rejected))
    has_slopes(lambda p: aot_loss(p, matched, beta=0.3, label_smoothing=0), *wanted, pairs)


def test_a_step_of_one_pair_is_dpo() -> None:
    whole = some_pairs()
    for b in range(5):
        one = replace(
            whole, **{k: getattr(whole, k)[b : b + 1] for k in ("chosen", "rejected", "ref_chosen", "ref_rejected")}
        )
        torch.testing.assert_close(AOT(beta=0.3).loss(one), dpo_loss(one, beta=0.3, label_smoothing=0))


def test_the_cut_into_forward_passes_changes_nothing(tiny_policy: Local) -> None:
    """One pair a pass: sorted within it, this would be DPO."""
    logs = []
    for tokens in (20, 2048):
        notes = Notes()
        AOT(
            learning_rate=3e-3, max_steps=6, per_device_train_batch_size=4, logging_steps=1, warmup_ratio=0,
            tokens_per_batch=tokens, eval_fraction=0.25, eval_steps=3, beta=0.5,
        )(tiny_policy, Evidence(pairs=PAIRS * 2), Run(log=notes))  # fmt: skip
        logs.append(notes)
    for name in ("loss", "grad_norm", "eval_loss", "rewards/margins"):
        assert logs[0].series(name) == pytest.approx(logs[1].series(name), rel=1e-3, abs=1e-5), name
    assert logs[0].series("loss")[-1] < 0.6


def test_on_a_small_model_the_logged_loss_is_the_sorted_one(tiny_policy: Local, notes: Notes) -> None:
    """The second step's loss from the weights after the first, sorted over all four pairs."""
    method = AOT(
        learning_rate=1e-3, max_steps=1, per_device_train_batch_size=4, warmup_ratio=0, tokens_per_batch=20, beta=1.0
    )
    tuned = method(tiny_policy, Evidence(pairs=PAIRS), Run())
    replace(method, max_steps=2, lr_scheduler_type="constant", logging_steps=1)(
        tiny_policy, Evidence(pairs=PAIRS), Run(log=notes)
    )
    chats = [pair.prompt for pair in PAIRS]
    margins = [
        policy.logprob(chats, [p.chosen for p in PAIRS]) - policy.logprob(chats, [p.rejected for p in PAIRS])
        for policy in (tuned, tiny_policy)
    ]
    apart = margins[0].sort().values - margins[1].sort().values
    wanted = torch.nn.functional.softplus(-apart).mean().item()
    unsorted = torch.nn.functional.softplus(-(margins[0] - margins[1])).mean().item()
    assert notes.rows[1]["loss"] == pytest.approx(wanted, abs=1e-4)
    assert abs(wanted - unsorted) > 1e-3
