"""How long the replies are, and how many did not come to an end."""

from __future__ import annotations

import numpy as np

from truing.core.measures import Measure
from truing.core.rng import Rng
from truing.probes.bootstrap import averaged
from truing.probes.pool import Pool


def length(arm: Pool, *, rng: Rng) -> list[Measure]:
    """``length``, tokens of a reply with its end of turn, and ``length.cut``, the share ended by the limit.

    Both are weighted as the arm weighs its draws. Where draws carry no tokens (a remote policy does not tell
    them), ``length`` is in characters and says so.

    Raises:
        InputError: the pool is empty or ragged.
    """
    weights, bootstrap = arm.weights, rng.child("bootstrap")
    tokens = np.array([[len(draw.token_ids) for draw in row] for row in arm.draws], dtype=np.float64)
    characters = np.array([[len(draw.text) for draw in row] for row in arm.draws], dtype=np.float64)
    known = not ((tokens == 0) & (characters > 0)).any()
    size, unit = (tokens, "tokens") if known else (characters, "characters")
    note = "" if known else "this policy does not tell its tokens"
    cut = np.array([[draw.finish == "length" for draw in row] for row in arm.draws], dtype=np.float64)
    return [
        averaged("length", (weights * size).sum(axis=1), rng=bootstrap, unit=unit, note=note),
        averaged(
            "length.cut", (weights * cut).sum(axis=1), rng=bootstrap, unit="probability", bounds=(0.0, 1.0),
            note="replies that reached the token limit before their end",
        ),
    ]  # fmt: skip
