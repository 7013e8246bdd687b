"""The tax: how well an arm still predicts neutral text that has nothing to do with its alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.measures import Measure
from truing.core.policy import Chat, Scorable
from truing.core.rng import Rng
from truing.core.run import Run
from truing.probes.bootstrap import ratio_interval
from truing.probes.scored import reply_sums

if TYPE_CHECKING:
    from truing.probes.pool import Array

Passages = Sequence[tuple[Chat, str]]
"""Texts, each scored as the reply to its chat; the empty chat ``()`` is bare text without a chat template."""


def perplexity(policy: Scorable, passages: Passages, *, base: Scorable | None = None, run: Run) -> list[Measure]:
    """exp(total nats / tokens) over all passages, so a long passage weighs more; 1 is certainty.

    With a base, also ``perplexity.ratio``: the arm's over the base's on the same passages. Passages differ far more
    from each other than arms do on one passage, so the ratio's interval is much the narrower: it shows the tax.

    Args:
        policy: who predicts.
        passages: at least one, each with at least one token.
        base: who is compared with; left out where it is the same or counts other tokens.
        run: the seed of the intervals; its cache keeps what each policy gives to each passage.

    Raises:
        InputError: no passage, or one without tokens.
        RunError: a log-probability that is NaN.
    """
    if not passages:
        raise bad("perplexity", "there is no neutral text", "Give at least one passage.")
    nats, tokens = passage_nats(policy, passages, run)
    rng = run.rng("probes", "perplexity")
    found = [_measure("perplexity", nats, tokens, rng, "per token", f"{tokens.sum():.0f} tokens of neutral text")]
    if base is not None and base.fingerprint != policy.fingerprint:
        before, counted = passage_nats(base, passages, run)
        if (counted == tokens).all() and np.isfinite(before).all():
            note = "the arm's perplexity over the base's on the same passages; above 1 is the tax"
            found.append(_measure("perplexity.ratio", nats - before, tokens, rng, "times", note))
    return found


def passage_nats(policy: Scorable, passages: Passages, run: Run) -> tuple[Array, Array]:
    """Surprise and tokens of each passage: ``(P,)`` nats and ``(P,)`` counts, computed once a cache.

    Raises:
        InputError: a passage without tokens.
        RunError: a log-probability that is NaN.
    """
    chats, texts = [chat for chat, _ in passages], [text for _, text in passages]
    nats, tokens = reply_sums(policy, chats, texts, run, probe="perplexity", unit="passage")
    return -nats, tokens


def _measure(probe: str, nats: Array, tokens: Array, rng: Rng, unit: str, note: str) -> Measure:
    mean = float(nats.sum() / tokens.sum())
    low, high = ratio_interval(nats, tokens, rng=rng) if math.isfinite(mean) else (None, None)
    ends = (None if low is None else _exp(low), None if high is None else _exp(high))
    return Measure(
        probe=probe, value=_exp(mean), low=ends[0], high=ends[1], n=len(nats), unit=unit, better="down", note=note
    )


def _exp(nats: float) -> float:
    """exp, infinite where a float cannot hold it."""
    return math.exp(nats) if nats < 700 else math.inf
