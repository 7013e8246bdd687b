"""The two-sample test against counting by hand, against all arrangements, and against SciPy where it is there."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from truing.core.errors import InputError
from truing.probes import two_samples
from truing.probes.two_samples import distance, kolmogorov_smirnov


def test_one_sample_twice_is_no_distance_and_disjoint_ones_are_all_of_it() -> None:
    same = kolmogorov_smirnov(np.arange(40.0), np.arange(40.0)[::-1])
    assert (same.distance, same.p) == (0.0, 1.0)
    apart = kolmogorov_smirnov(np.arange(40.0), 100 + np.arange(40.0))
    assert apart.distance == 1.0
    assert apart.p == pytest.approx(2 / math.comb(80, 40), rel=1e-12)  # two of all paths go along the edges


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 5), (4, 3), (1, 4)])
def test_the_p_value_is_the_share_of_all_arrangements(n: int, m: int) -> None:
    source = np.random.default_rng(0)
    left, right = source.normal(size=n), source.normal(size=m)
    found = kolmogorov_smirnov(left, right)
    pooled = np.concatenate([left, right])
    every = []
    for chosen in combinations(range(n + m), n):
        rest = [k for k in range(n + m) if k not in chosen]
        every.append(distance(pooled[list(chosen)], pooled[rest]))
    assert found.p == pytest.approx(np.mean(np.array(every) >= found.distance - 1e-12))


def test_either_order_a_monotone_change_and_infinities_are_of_no_matter() -> None:
    source = np.random.default_rng(1)
    left, right = source.normal(size=30), source.normal(0.5, size=20)
    found = kolmogorov_smirnov(left, right)
    assert kolmogorov_smirnov(right, left) == found
    assert kolmogorov_smirnov(np.exp(-left), np.exp(-right)).p == pytest.approx(found.p)
    left[left.argmax()], right[right.argmin()] = np.inf, -np.inf
    assert 0 < kolmogorov_smirnov(left, right).p <= 1


def test_scipy_agrees() -> None:
    stats = pytest.importorskip("scipy.stats")
    source = np.random.default_rng(2)
    for n, m, shift in ((40, 40, 0.0), (40, 40, 1.0), (200, 200, 0.3), (31, 57, 0.5), (300, 300, 3.0)):
        left, right = source.normal(size=n), source.normal(shift, size=m)
        found, other = kolmogorov_smirnov(left, right), stats.ks_2samp(left, right, method="exact")
        assert found.distance == pytest.approx(other.statistic, abs=1e-12)
        assert found.p == pytest.approx(other.pvalue, rel=1e-6)
    assert two_samples._limit(0.9) == pytest.approx(stats.kstwobign.sf(0.9), rel=1e-9)


def test_beyond_a_million_it_goes_over_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(3)
    left, right = source.normal(size=900), source.normal(0.08, size=900)
    exact = kolmogorov_smirnov(left, right).p
    monkeypatch.setattr(two_samples, "EXACT", 0)
    assert kolmogorov_smirnov(left, right).p == pytest.approx(exact, rel=0.1)
    assert two_samples._limit(0.1) == 1.0
    assert two_samples._limit(100.0) > 0


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan]])
def test_what_is_no_sample_is_refused(wrong: list[float]) -> None:
    with pytest.raises(InputError):
        kolmogorov_smirnov(np.array(wrong), np.array([1.0, 2.0]))
