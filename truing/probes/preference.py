"""How well a policy tells the better reply of a held-out pair from the worse, and where it has moved the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from truing.core.evidence import Pair
from truing.core.measures import Measure
from truing.core.policy import Scorable
from truing.core.rng import Rng
from truing.core.run import Run
from truing.probes.bootstrap import ratio_interval
from truing.probes.scored import reply_sums

if TYPE_CHECKING:
    from truing.probes.pool import Array

    Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


def preference(policy: Scorable, pairs: Sequence[Pair], *, base: Scorable | None = None, run: Run) -> list[Measure]:
    """Agreement with preferences that were not trained on.

    - ``preference.likelihood``: the share of pairs whose chosen reply is the more likely one, by the log-probability
      of the whole reply; it leans to short replies.
    - ``preference.per_token``: the same by the mean over a reply's tokens; it leans to long ones.
    - ``preference``: the share of pairs whose chosen reply has gained more on the base than the rejected one has: the
      accuracy of the implicit reward (Rafailov et al. 2023, arXiv:2305.18290, section 5).
    - ``preference.chosen``, ``preference.rejected``: how much more likely than to the base the replies have become,
      nats a reply. That both fall while the accuracy rises is the displacement of Razin et al., arXiv:2410.08847.

    A tie is half right. The last three need a base that is another policy and counts the same tokens. Pairs of one
    prompt are resampled together for the intervals, as they resemble each other.

    Args:
        policy: whose log-probabilities are asked.
        pairs: at least one.
        base: who is compared with.
        run: the seed of the intervals; its cache keeps what each policy gives to each reply.

    Raises:
        InputError: a reply without tokens.
        RunError: a log-probability that is NaN.
    """
    sums, counts = _scored(policy, pairs, run)
    units, rng = _prompts(pairs), run.rng("probes", "preference")
    found = [
        _share("preference.likelihood", _right(sums[:, 0] - sums[:, 1]), units, rng, "chosen the more likely reply"),
        _share("preference.per_token", _right((sums / counts) @ (1.0, -1.0)), units, rng, "chosen more likely a token"),
    ]
    if base is None or base.fingerprint == policy.fingerprint:
        return found
    before, counted = _scored(base, pairs, run)
    if (counted != counts).any():
        return found
    gained = sums - before
    note = "chosen has gained more on the base"
    return [
        _share("preference", _right(gained[:, 0] - gained[:, 1]), units, rng, note),
        *found,
        _mean("preference.chosen", gained[:, 0], units, rng, "change of the chosen reply's log-probability"),
        _mean("preference.rejected", gained[:, 1], units, rng, "change of the rejected reply's log-probability"),
    ]


def _scored(policy: Scorable, pairs: Sequence[Pair], run: Run) -> tuple[Array, Array]:
    """``(N, 2)`` nats and ``(N, 2)`` tokens of chosen and rejected."""
    chats = [pair.prompt for pair in pairs for _ in (0, 1)]
    replies = [reply for pair in pairs for reply in (pair.chosen, pair.rejected)]
    sums, counts = reply_sums(policy, chats, replies, run, probe="preference", unit="reply")
    return sums.reshape(-1, 2), counts.reshape(-1, 2)


def _prompts(pairs: Sequence[Pair]) -> Numbers:
    """``(N,)``, the number of each pair's prompt."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(pair.prompt, len(numbers)) for pair in pairs])


def _right(margins: Array) -> Array:
    return np.where(margins > 0, 1.0, np.where(margins < 0, 0.0, 0.5))  # two impossible replies are a tie


def _share(probe: str, right: Array, units: Numbers, rng: Rng, note: str) -> Measure:
    return _mean(probe, right, units, rng, note, unit="probability", better="up")


def _mean(
    probe: str, values: Array, units: Numbers, rng: Rng, note: str, *, unit: str = "nats", better: str = "none"
) -> Measure:
    """The mean over pairs, resampled by prompt."""
    prompts = int(units.max()) + 1
    tops, bottoms = (np.bincount(units, each).astype(np.float64) for each in (values, np.ones(len(units))))
    low, high = ratio_interval(tops, bottoms, rng=rng) if np.isfinite(tops).all() else (None, None)
    note = f"{note}; {len(values)} held-out pairs of {prompts} prompts"
    return Measure(
        probe=probe,
        value=float(np.mean(values)),
        low=low,
        high=high,
        n=len(values),
        unit=unit,
        better=better,
        note=note,
    )
