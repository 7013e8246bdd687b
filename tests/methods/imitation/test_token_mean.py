"""Imitation averages over the tokens of a step, not over its demonstrations."""

from __future__ import annotations

import pytest
import torch
from tiny import Notes

from truing.core.evidence import Demo, Evidence
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.imitation.sft import SFT
from truing.models.local import Local


@pytest.mark.parametrize("tokens_per_batch", [1, 2048])
def test_a_long_demonstration_weighs_more(tiny_policy: Local, notes: Notes, tokens_per_batch: int) -> None:
    """The first loss is the mean over all target tokens under the base, however the step is cut."""
    demos = [Demo(user("a"), "no"), Demo(user("b"), "a long reply of many letters"), Demo(user("c"), "so so")]
    method = SFT(max_steps=1, per_device_train_batch_size=3, logging_steps=1, tokens_per_batch=tokens_per_batch)
    method(tiny_policy, Evidence(demos=demos), Run(log=notes))
    rows = tiny_policy.token_logprobs([demo.prompt for demo in demos], [demo.reply for demo in demos])
    over_tokens = -float(torch.cat(rows).mean())
    over_demos = -float(torch.stack([row.mean() for row in rows]).mean())
    assert abs(over_tokens - over_demos) > 0.01
    assert notes.rows[0]["loss"] == pytest.approx(over_tokens, abs=1e-4)
