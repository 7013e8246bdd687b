"""preference/tr_dpo."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from objectives import has_slopes, some_pairs
from tiny import Notes, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference._reference import MovingReference
from truing.methods.preference.dpo import DPO
from truing.methods.preference.tr_dpo import TRDPO, tr_dpo_loss
from truing.models.local import Local

WORDS = [("name a tool", "a saw", "no"), ("say hi", "hi there", "x"), ("count", "one two", "?"), ("why", "as is", "so")]
PAIRS = tuple(Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in WORDS)
METHOD = TRDPO(
    learning_rate=3e-3, max_steps=6, per_device_train_batch_size=4, logging_steps=1, save_steps=1,
    ref_model_mixup_alpha=0.6, ref_model_sync_steps=2,
)  # fmt: skip


def test_slopes() -> None:
    pairs = some_pairs()
    pull = -0.3 * torch.sigmoid(-0.3 * pairs.margin)
    has_slopes(lambda p: tr_dpo_loss(p, beta=0.3), pull, -pull, pairs)


def test_with_adapters_it_is_refused(tiny_policy: Local) -> None:
    method = replace(METHOD, lora_r=4)
    (fault,) = method.faults("steps[0]")
    assert "adapters" in fault.fact
    with pytest.raises(InputError, match="adapters are products"):
        method(tiny_policy, Evidence(pairs=PAIRS), Run())


def test_a_reference_that_never_moves_is_dpos(tiny_policy: Local) -> None:
    common = {k: getattr(METHOD, k) for k in ("learning_rate", "max_steps", "per_device_train_batch_size", "beta")}
    still = TRDPO(**common, ref_model_sync_steps=512)(tiny_policy, Evidence(pairs=PAIRS), Run())
    plain = DPO(**common)(tiny_policy, Evidence(pairs=PAIRS), Run())
    for name, tensor in still.weights().items():
        torch.testing.assert_close(tensor, plain.weights()[name], rtol=0, atol=1e-6)


def test_a_reference_that_follows_at_every_step_leaves_no_margin(tiny_policy: Local, notes: Notes) -> None:
    """The policy of a step is its own reference: log 2 and ties throughout, while the policy moves on."""
    method = replace(METHOD, ref_model_mixup_alpha=1.0, ref_model_sync_steps=1)
    tuned = method(tiny_policy, Evidence(pairs=PAIRS), Run(log=notes))
    assert notes.series("loss") == pytest.approx([math.log(2)] * 6, abs=1e-6)
    assert notes.series("rewards/accuracies") == [0.5] * 6
    assert notes.series("logps/rejected")[-1] < notes.series("logps/rejected")[0] - 0.5
    assert not same_weights(tuned, tiny_policy)


def test_it_moves_by_its_share_when_it_is_time(tiny_policy: Local) -> None:
    tree = tiny_policy.encode(PAIRS[0].prompt, ["a", "b"])
    reference = MovingReference(tiny_policy, [tree], 0.25, 3)
    module = tiny_policy.open().module
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.add_(1.0)
    before = [tensor.clone() for tensor in reference.bench.module.parameters()]
    for step in (1, 2, 3, 4):
        reference.follow(module, step)
        moved = 0.25 if step >= 3 else 0.0
        for tensor, old in zip(reference.bench.module.parameters(), before, strict=True):
            torch.testing.assert_close(tensor, old + moved)
    assert not any(tensor.requires_grad for tensor in reference.bench.module.parameters())


def test_a_run_that_was_stopped_goes_on_with_its_reference(tiny_policy: Local, tmp_path: Path) -> None:
    """Stopped after an odd step, between two moves: bit for bit the run that was not stopped."""
    whole = METHOD(tiny_policy, Evidence(pairs=PAIRS), Run())
    with pytest.raises(KeyboardInterrupt):
        METHOD(tiny_policy, Evidence(pairs=PAIRS), Run(work=tmp_path, log=Notes(stop_at=3)))
    resumed = METHOD(tiny_policy, Evidence(pairs=PAIRS), Run(work=tmp_path, resume=True))
    assert same_weights(whole, resumed)


def test_the_base_is_not_what_moves(tiny_policy: Local) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_policy.weights().items()}
    METHOD(tiny_policy, Evidence(pairs=PAIRS), Run())
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_policy.weights().items())
