"""preference/ln_dpo."""

from __future__ import annotations

from dataclasses import replace

import torch
from objectives import double, has_slopes, is_same, is_stationary, some_pairs, strengths

from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.preference.ln_dpo import ln_dpo_loss
from truing.methods.preference.simpo import simpo_loss


def test_slopes() -> None:
    pairs = some_pairs()
    left, right = pairs.chosen_tokens, pairs.rejected_tokens
    pull = 2.0 * torch.sigmoid(-2.0 * (pairs.chosen_ratio / left - pairs.rejected_ratio / right))
    has_slopes(lambda p: ln_dpo_loss(p, beta=2.0, label_smoothing=0), -pull / left, pull / right, pairs)


def test_of_equal_lengths_it_is_dpo_at_beta_over_the_length() -> None:
    length = torch.full((5,), 8)
    is_same(
        lambda p: ln_dpo_loss(p, beta=2.0, label_smoothing=0.1),
        lambda p: dpo_loss(p, beta=0.25, label_smoothing=0.1),
        replace(some_pairs(), chosen_tokens=length, rejected_tokens=length),
    )


def test_over_a_base_that_gives_every_token_the_same_it_is_simpo_without_a_margin() -> None:
    pairs = some_pairs()
    even = replace(pairs, ref_chosen=-1.3 * pairs.chosen_tokens, ref_rejected=-1.3 * pairs.rejected_tokens)
    is_same(
        lambda p: ln_dpo_loss(p, beta=2.0, label_smoothing=0),
        lambda p: simpo_loss(p, beta=2.0, simpo_gamma=0, label_smoothing=0),
        even,
    )


def test_a_reply_said_twice_changes_nothing_though_dpos_margin_doubles() -> None:
    once = some_pairs()
    twice = PairLogps(
        2 * once.chosen, 2 * once.rejected, 2 * once.ref_chosen, 2 * once.ref_rejected,
        2 * once.chosen_tokens, 2 * once.rejected_tokens,
    )  # fmt: skip
    torch.testing.assert_close(twice.margin, 2 * once.margin)
    losses = [ln_dpo_loss(pairs, beta=2.5, label_smoothing=0) for pairs in (once, twice)]
    torch.testing.assert_close(*losses)


def test_of_one_token_dpos_optimum_is_stationary() -> None:
    reward, base, beta = double(0.0, 1.0, -2.0), double(0.5, 0.3, 0.2).log(), 0.5
    even = torch.full((3,), 1 / 3, dtype=torch.float64)
    is_stationary(
        lambda p: ln_dpo_loss(p, beta=beta, label_smoothing=0), base + reward / beta, base, strengths(reward), even
    )
