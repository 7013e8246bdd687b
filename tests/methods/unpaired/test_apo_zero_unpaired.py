"""unpaired/apo_zero_unpaired."""

from __future__ import annotations

import torch
from ratings import double, rated, slope, some

from truing.methods.preference._pairs import PairLogps
from truing.methods.preference.apo_zero import apo_zero_loss
from truing.methods.unpaired.apo_zero_unpaired import apo_zero_unpaired_loss

BETA = 0.3


def test_slopes() -> None:
    given = some()
    s = torch.sigmoid(BETA * given.ratio.detach())
    wanted = BETA * s * (1 - s) * torch.where(given.desirable, -1.5, 0.4)
    found = slope(lambda r: apo_zero_unpaired_loss(r, beta=BETA, desirable_weight=1.5, undesirable_weight=0.4), given)
    torch.testing.assert_close(found, wanted)


def test_on_both_replies_of_a_pair_it_is_the_pairs_loss() -> None:
    good, bad, zero = double(1, -3, 8), double(0.5, 2, -8), double(0, 0, 0)
    sides = [
        apo_zero_unpaired_loss(rated(ratio, [side] * 3), beta=BETA, desirable_weight=1, undesirable_weight=1)
        for ratio, side in ((good, True), (bad, False))
    ]
    torch.testing.assert_close(sides[0] + sides[1], apo_zero_loss(PairLogps(good, bad, zero, zero), beta=BETA))
