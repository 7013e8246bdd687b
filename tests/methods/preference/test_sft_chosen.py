"""preference/sft_chosen."""

from __future__ import annotations

import torch
from objectives import has_slopes, some_pairs
from tiny import Notes

from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Run
from truing.methods.preference.sft_chosen import SFTChosen, sft_chosen_loss
from truing.models.local import Local


def test_slopes() -> None:
    pairs = some_pairs()
    has_slopes(sft_chosen_loss, -1 / pairs.chosen_tokens.double(), torch.zeros_like(pairs.rejected), pairs)


def test_what_is_logged_is_the_mean_over_each_replys_own_tokens(tiny_policy: Local, notes: Notes) -> None:
    pairs = [Pair(user("name a tool"), "a saw", "no"), Pair(user("say hi"), "hi there and more", "x")]
    SFTChosen(max_steps=1, learning_rate=1e-3)(tiny_policy, Evidence(pairs=pairs), Run(log=notes))
    tokens = tiny_policy.token_logprobs([pair.prompt for pair in pairs], [pair.chosen for pair in pairs])
    assert len({len(row) for row in tokens}) == 2
    wanted = -sum(float(row.double().mean()) for row in tokens) / 2
    assert abs(notes.rows[0]["loss"] - wanted) < 1e-4
