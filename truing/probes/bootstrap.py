"""Intervals by resampling prompts: the unit that was drawn at random is the prompt, not the reply.

The draws to one prompt resemble each other, so resampling them would count one observation many times. The
percentile bootstrap (Efron 1979, Annals of Statistics 7) resamples whole prompts. It is too narrow for few of
them: in our simulation (16 draws a prompt, chances spread over prompts as beta(0.6, 2.4), 2,000 repeats) a 95 %
interval covered the truth in 89 % of cases with 10 prompts, 92 % with 20, 94 % with 50 and 95 % with 100.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.measures import Measure
from truing.core.rng import Rng

if TYPE_CHECKING:
    from truing.probes.pool import Array

Interval = tuple[float | None, float | None]
BLOCK = 1 << 20  # numbers resampled at a time: memory stays flat however many prompts there are


def interval(
    values: Array, *, rng: Rng, resamples: int = 2000, level: float = 0.95, bounds: tuple[float, float] | None = None
) -> Interval:
    """An interval for the mean of ``values`` over prompts.

    Args:
        values: ``(P,)``, one number a prompt.
        rng: the stream; the same stream and P give the same resamples, so arms are resampled alike.
        resamples: how many, >= 1.
        level: share of the distribution inside, (0, 1).
        bounds: the least and the greatest value that a prompt can have. Where every prompt sits on the same bound,
            resampling sees no variation at all; the far end is then what Clopper and Pearson (1934) give for
            "none of P", which holds for any variable within those bounds.

    Returns: low and high, in the unit of ``values``; ``(None, None)`` for a single prompt.

    Raises:
        InputError: no values, or one that is not finite.
    """
    values = _finite(values)
    if len(values) == 1:
        return None, None
    if bounds is not None and values.min() == values.max() and values[0] in bounds:
        return _one_sided(float(values[0]), len(values), (1 - level) / 2, bounds)
    means = [values[picks].mean(axis=1) for picks in _picks(len(values), rng, resamples)]
    return _percentiles(np.concatenate(means), level)


def ratio_interval(top: Array, bottom: Array, *, rng: Rng, resamples: int = 2000, level: float = 0.95) -> Interval:
    """An interval for ``sum(top) / sum(bottom)``, both resampled together.

    Args:
        top: ``(P,)``, e.g. nats of each passage.
        bottom: ``(P,)``, > 0, e.g. its tokens.
        rng, resamples, level: as for :func:`interval`.

    Returns: low and high; ``(None, None)`` for a single unit.

    Raises:
        InputError: no values, one that is not finite, or a bottom that is not positive.
    """
    top, bottom = _finite(top), _finite(bottom)
    if top.shape != bottom.shape or not (bottom > 0).all():
        raise bad("interval", "a ratio needs one denominator > 0 for every numerator")
    if len(top) == 1:
        return None, None
    picked = _picks(len(top), rng, resamples)
    return _percentiles(np.concatenate([top[p].sum(axis=1) / bottom[p].sum(axis=1) for p in picked]), level)


def _picks(prompts: int, rng: Rng, resamples: int) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.int64]]]:
    """Blocks of ``(resamples', P)`` indices, in an order that only the stream and P decide."""
    generator, step = rng.numpy(), max(BLOCK // prompts, 1)
    for begin in range(0, resamples, step):
        yield generator.integers(0, prompts, size=(min(step, resamples - begin), prompts))


def _percentiles(statistics: Array, level: float) -> Interval:
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _one_sided(value: float, prompts: int, tail: float, bounds: tuple[float, float]) -> Interval:
    reach = (bounds[1] - bounds[0]) * (1 - tail ** (1 / prompts))
    return (value, value + reach) if value == bounds[0] else (value - reach, value)


def _finite(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise bad("interval", f"needs one number a prompt, but its values have the shape {values.shape}")
    if not np.isfinite(values).all():
        at = int(np.nonzero(~np.isfinite(values))[0][0])
        raise bad("interval", f"the value of prompt {at} is {values[at]}, and no mean can hold it")
    return values


def averaged(
    probe: str,
    values: Array,
    *,
    rng: Rng,
    unit: str,
    better: str = "none",
    note: str = "",
    bounds: tuple[float, float] | None = None,
) -> Measure:
    """The mean over prompts as a measure.

    An infinite value (a reply to which the base gives no probability) makes an infinite mean without an interval.

    Args:
        probe, unit, better, note: as in :class:`Measure`.
        values: ``(P,)``, one number a prompt.
        rng, bounds: as for :func:`interval`.

    Raises:
        InputError: no values, or one that is NaN.
    """
    mean = float(np.mean(values))
    low, high = (None, None) if np.isinf(mean) else interval(values, rng=rng, bounds=bounds)
    return Measure(probe=probe, value=mean, low=low, high=high, n=len(values), unit=unit, better=better, note=note)
