"""unlearn/dpo_idk."""

from __future__ import annotations

import torch
from forgetting import has_slopes, some_forgotten

from truing.methods.preference._family import PairLogps
from truing.methods.preference.dpo import dpo_loss
from truing.methods.unlearn.dpo_idk import dpo_idk_loss


def test_slopes() -> None:
    given = some_forgotten(width=1)
    pull = 2 * torch.sigmoid(-0.3 * (given.instead_ratio - given.ratio))
    has_slopes(lambda f: dpo_idk_loss(f, beta=0.3), pull, -pull[:, None], given)


def test_it_is_dpo_with_the_refusal_chosen_times_two_over_beta() -> None:
    given = some_forgotten(width=1)
    pairs = PairLogps(given.instead[:, 0], given.forgotten, given.ref_instead[:, 0], given.ref_forgotten)
    torch.testing.assert_close(
        dpo_idk_loss(given, beta=0.3), 2 / 0.3 * dpo_loss(pairs, beta=0.3, label_smoothing=0), rtol=1e-9, atol=1e-9
    )
