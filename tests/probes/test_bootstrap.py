from __future__ import annotations

import numpy as np
import pytest

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.probes import bootstrap
from truing.probes.bootstrap import averaged, interval, ratio_interval


def test_a_95_percent_interval_covers_a_known_share_in_more_than_90_percent_of_repeats() -> None:
    """50 prompts, 8 draws each, one share for all: the truth is known."""
    generator, truth, hits = np.random.default_rng(7), 0.3, 0
    for repeat in range(300):
        low, high = interval(generator.binomial(8, truth, 50) / 8, rng=Rng(repeat), resamples=500)
        hits += low <= truth <= high
    assert 0.90 < hits / 300 < 0.99


def test_it_has_the_width_of_the_normal_interval_for_many_prompts() -> None:
    values = np.random.default_rng(0).normal(size=2000)
    low, high = interval(values, rng=Rng(0))
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_stream_alone_decides() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert interval(values, rng=Rng(1, ("a",))) == interval(values, rng=Rng(1, ("a",)))
    assert interval(values, rng=Rng(1, ("a",))) != interval(values, rng=Rng(1, ("b",)))


def test_it_moves_and_stretches_with_the_values() -> None:
    values = np.random.default_rng(0).normal(size=30)
    low, high = interval(values, rng=Rng(1))
    assert interval(3 * values + 5, rng=Rng(1)) == pytest.approx((3 * low + 5, 3 * high + 5))


def test_blocks_cover_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=30)
    monkeypatch.setattr(bootstrap, "BLOCK", 70)
    assert sum(len(block) for block in bootstrap._picks(30, Rng(0), 7)) == 7
    assert interval(values, rng=Rng(0), level=0.5)[0] < values.mean() < interval(values, rng=Rng(0), level=0.5)[1]


def test_one_prompt_has_no_interval() -> None:
    assert interval(np.array([0.4]), rng=Rng(0)) == (None, None)
    assert ratio_interval(np.array([0.4]), np.array([2.0]), rng=Rng(0)) == (None, None)


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [np.inf, 0.0], [[0.1, 0.2]]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(InputError):
        interval(np.array(values), rng=Rng(0))


@pytest.mark.parametrize("prompts", [5, 50])
def test_nothing_in_p_prompts_is_not_nothing_at_all(prompts: int) -> None:
    """Clopper and Pearson: the far end h is where (1 - h)^P = 2.5 %."""
    low, high = interval(np.zeros(prompts), rng=Rng(0), bounds=(0.0, 1.0))
    assert low == 0
    assert (1 - high) ** prompts == pytest.approx(0.025)
    assert interval(np.ones(prompts), rng=Rng(0), bounds=(0.0, 1.0)) == pytest.approx((1 - high, 1))


def test_a_ratio_of_equal_parts_is_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert ratio_interval(values * 4, np.full(30, 4.0), rng=Rng(0)) == pytest.approx(interval(values, rng=Rng(0)))


def test_a_ratio_weighs_a_long_unit_more_and_refuses_an_empty_one() -> None:
    top, bottom = np.array([1.0, 90.0, 91.0, 2.0]), np.array([10.0, 100.0, 101.0, 20.0])
    low, high = ratio_interval(top, bottom, rng=Rng(0))
    assert low < top.sum() / bottom.sum() < high <= 0.902
    with pytest.raises(InputError):
        ratio_interval(top, np.array([1.0, 0.0, 1.0, 1.0]), rng=Rng(0))


def test_an_infinite_mean_has_no_interval_and_a_nan_is_refused() -> None:
    found = averaged("kl", np.array([np.inf, 1.0]), rng=Rng(0), unit="nats")
    assert (found.value, found.low, found.high, found.n) == (np.inf, None, None, 2)
    with pytest.raises(InputError):
        averaged("kl", np.array([np.nan, 1.0]), rng=Rng(0), unit="nats")
