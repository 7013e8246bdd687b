"""merge/passthrough."""

from __future__ import annotations

import pytest
import torch
from bags import Bag

from truing.core.evidence import Evidence
from truing.core.run import Run
from truing.methods.merge.passthrough import Passthrough

NAMES = ("embed.weight", "layers.0.w", "layers.1.w", "layers.2.w", "head.weight")


@pytest.mark.parametrize(("take", "theirs"), [(0.0, ""), (0.5, "12"), (0.4, "2"), (1.0, "e012h")])
def test_the_last_blocks_are_the_donors(take: float, theirs: str) -> None:
    base, donor = (Bag(**{name: torch.full((2,), value) for name in NAMES}) for value in (1.0, 2.0))
    made = Passthrough(take=take, scale=3.0)(base, Evidence(donors={"a": donor}), Run()).weights()
    for name, tag in zip(NAMES, ("e", "0", "1", "2", "h"), strict=True):
        assert made[name].tolist() == ([6.0, 6.0] if tag in theirs else [1.0, 1.0])
