"""preference/simpo."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from objectives import double, has_slopes, is_same, some_pairs
from tiny import Notes

from truing.core.evidence import Evidence, Pair
from truing.core.policy import user
from truing.core.run import Log, Run
from truing.core.trees import Tree
from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.simpo import SimPO, simpo_loss
from truing.models.local import Local


def test_slopes() -> None:
    pairs = some_pairs()
    mean = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    pull = 2.0 * torch.sigmoid(1.4 - 2.0 * mean)
    has_slopes(
        lambda p: simpo_loss(p, beta=2.0, simpo_gamma=1.4, label_smoothing=0),
        -pull / pairs.chosen_tokens, pull / pairs.rejected_tokens, pairs,
    )  # fmt: skip


def test_of_equal_lengths_and_without_a_margin_it_is_dpo_over_a_uniform_base() -> None:
    """``SimPO(beta) = DPO(beta / length)``."""
    length = torch.full((5,), 8)
    zero = torch.zeros(5, dtype=torch.float64)
    pairs = replace(some_pairs(), chosen_tokens=length, rejected_tokens=length, ref_chosen=zero, ref_rejected=zero)
    is_same(
        lambda p: simpo_loss(p, beta=2.0, simpo_gamma=0, label_smoothing=0.1),
        lambda p: dpo_loss(p, beta=0.25, label_smoothing=0.1),
        pairs,
    )


def test_a_reply_said_twice_changes_nothing() -> None:
    """Every log-probability vector joined to itself: sums and lengths double, the loss does not."""
    once = some_pairs()
    twice = PairLogps(
        2 * once.chosen, 2 * once.rejected, 2 * once.ref_chosen, 2 * once.ref_rejected,
        2 * once.chosen_tokens, 2 * once.rejected_tokens,
    )  # fmt: skip
    losses = [simpo_loss(pairs, beta=2.5, simpo_gamma=0.5, label_smoothing=0) for pairs in (once, twice)]
    torch.testing.assert_close(*losses)


def test_the_authors_way_of_writing_it() -> None:
    """``-log sigmoid(beta (difference - gamma / beta))``."""
    zero, one = double(0.0, 0.0), torch.tensor([1, 1])
    pairs = PairLogps(double(-1.0, -2.0), double(-3.0, -2.5), zero, zero, one, one)
    wanted = -torch.log(torch.sigmoid(2.0 * (double(2.0, 0.5) - 1.6 / 2.0)))
    torch.testing.assert_close(simpo_loss(pairs, beta=2.0, simpo_gamma=1.6, label_smoothing=0), wanted)


def test_without_lengths_it_refuses() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="lengths"):
        simpo_loss(PairLogps(zero, zero, zero, zero), beta=1, simpo_gamma=0, label_smoothing=0)


def test_it_pays_for_no_reference_pass(tiny_policy: Local, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is logged as rewards are its own: scaled mean log-probabilities."""

    def forbidden(self: Local, trees: list[Tree], log: Log) -> list[torch.Tensor]:
        raise AssertionError("a reference pass")

    pairs = [Pair(user("name a tool"), "a saw", "no"), Pair(user("say hi"), "hi there", "x")]
    with monkeypatch.context() as patch:
        patch.setattr(Local, "tree_logprobs", forbidden)
        SimPO(max_steps=1, learning_rate=1e-3)(tiny_policy, Evidence(pairs=pairs), Run(log=notes))
    tokens = tiny_policy.token_logprobs([pair.prompt for pair in pairs], [pair.chosen for pair in pairs])
    wanted = 2.0 * sum(float(row.mean()) for row in tokens) / 2
    assert notes.rows[0]["rewards/chosen"] == pytest.approx(wanted, abs=1e-4)
    assert notes.rows[0]["rewards/accuracies"] in (0, 0.5, 1)
