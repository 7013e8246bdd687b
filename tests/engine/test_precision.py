"""bfloat16: policy and reference are rounded alike, and no layout is thrown out for being rounded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import LENGTHS, TREES, train
from tiny import Notes, make_local, random_trees

from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.engine.cache import reference_logprobs
from truing.engine.precision import autocast
from truing.methods.preference.dpo import DPO
from truing.models.local import Local

PAIRS = tuple(Pair(user(f"say {word}"), f"the {word} " * 4, "in no way " * 3) for word in ("hat", "thin", "pen", "ten"))
PRECISIONS = ("float32", "bf16")


def first_step(base: Local, notes: Notes, **settings: Any) -> dict[str, float]:
    """The metrics of a step of DPO from its base."""
    DPO(max_steps=1, logging_steps=1, **settings)(base, Evidence(pairs=PAIRS), Run(log=notes))
    return notes.rows[0]


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}])
@pytest.mark.parametrize("bf16", [False, True])
def test_dpo_begins_at_log_2(bf16: bool, settings: dict[str, Any], tiny_policy: Local, notes: Notes) -> None:
    row = first_step(tiny_policy, notes, bf16=bf16, **settings)
    assert row["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert row["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert row["rewards/accuracies"] == 0.5


def test_a_reference_in_another_precision_would_not(tiny_policy: Local) -> None:
    """What the test above would see, were the reference in float32: hundredths of a nat and more."""
    plain, rounded = (reference_logprobs(tiny_policy, TREES, Run(), precision) for precision in PRECISIONS)
    gaps = [float((a.sum() - b.sum()).abs()) for a, b in zip(plain, rounded, strict=True)]
    assert max(gaps) > 0.02


def test_every_precision_has_its_entry(tiny_policy: Local, tmp_path: Path, notes: Notes) -> None:
    run = Run(cache=tmp_path, log=notes)
    misses = [reference_logprobs(tiny_policy, TREES, run, precision) for precision in PRECISIONS]
    assert notes.said == []
    hits = [reference_logprobs(tiny_policy, TREES, run, precision) for precision in PRECISIONS]
    assert len(notes.said) == 2
    for miss, hit in zip(misses, hits, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(miss, hit, strict=True))
    assert not torch.equal(misses[0][0], misses[1][0])


def test_rounding_is_no_reason_to_give_up_the_packed_layout(notes: Notes) -> None:
    """Nothing was scored before: the layout is proved within the first step, under autocast."""
    base = make_local(num_hidden_layers=6)
    bench = base.open()
    bench.scorer.log = notes
    with autocast("bf16"):
        bench.score(random_trees(3, 6))
    assert (bench.scorer.layout, notes.said) == ("packed", [])


def test_what_is_held_out_is_scored_as_what_is_trained_on(tiny_policy: Local, notes: Notes) -> None:
    """The whole set is a step, and half of it is held out; with a rate of 0 both come from the same policy."""
    twice = [tree for tree in TREES for _ in range(2)]
    settings = {"max_steps": 1, "learning_rate": 0.0, "per_device_train_batch_size": 32, "eval_fraction": 0.5}
    train(tiny_policy, twice, [n for n in LENGTHS for _ in range(2)], Run(log=notes), bf16=True, **settings)
    both = (notes.rows[0]["logps/chosen"] + notes.rows[1]["eval_logps/chosen"]) / 2
    for precision, near in (("bf16", True), ("float32", False)):
        with torch.no_grad(), autocast(precision):
            wanted = float(tiny_policy.scorer(twice).sums.mean())
        assert (abs(both - wanted) < 1e-3) == near, precision


def test_outside_nothing_is_rounded() -> None:
    left = torch.full((2, 2), 1.001)
    with autocast("bf16"):
        assert (left @ left).dtype == torch.bfloat16
        with autocast("float32"):
            assert (left @ left).dtype == torch.float32
    assert (left @ left).dtype == torch.float32
