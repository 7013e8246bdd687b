from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_helpers import MakeRun

from truing.report.pareto import best_of_n, pareto_set
from truing.report.study import gather

GRID = st.integers(0, 6).map(lambda i: i / 4)


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """The definition: at least as good in both, better in one."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(st.lists(st.tuples(GRID, GRID), max_size=12))
def test_the_set_is_what_the_definition_gives_by_brute_force(points: list[tuple[float, float]]) -> None:
    """A coarse grid, so that equal coordinates and equal points are common."""
    expected = [i for i, p in enumerate(points) if not any(beats(q, p) for q in points)]
    assert pareto_set(points) == expected


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_best_of_n_curve_is_the_divergence_of_the_maximum_of_n_uniform_rewards(n: int) -> None:
    """Its density over the base's is n u^(n-1); both formulas are integrals over that, done here by midpoints."""
    grid = [(i + 0.5) / 20000 for i in range(20000)]
    density = [n * u ** (n - 1) for u in grid]
    kl = sum(d * math.log(d) for d in density) / len(grid)
    win = sum(d * u for d, u in zip(density, grid, strict=True)) / len(grid)
    assert best_of_n(n) == pytest.approx((kl, win), abs=1e-4)


def test_the_base_stands_on_the_front_and_beats_what_loses_to_it(make_run: MakeRun, trial: Path) -> None:
    study = gather([trial])
    assert study.pareto == ("best_of_n/n=4", "dpo/beta=0.1", "dpo/beta=0.05")
    worse = make_run(
        {"base": {}, "bad": {"win_rate": {"value": 0.4}, "kl": {"value": 0.1, "unit": "nats"}}}, folder="worse"
    )
    assert gather([worse]).pareto == ()


def test_a_bound_stands_in_only_where_no_kl_was_measured(make_run: MakeRun) -> None:
    bound = {"value": 2.0, "kind": "bound"}
    folder = make_run(
        {
            "base": {},
            "a": {"win_rate": {"value": 0.6}, "kl": {"value": 1.0}, "kl_bound": bound},
            "b": {"win_rate": {"value": 0.7}, "kl_bound": bound},
            "c": {"win_rate": {"value": 0.7}, "kl": {"value": -0.01}},
        }
    )
    points = {p.arm.name: (p.x, p.is_bound) for p in gather([folder]).points}
    assert points == {"a": (1.0, False), "b": (2.0, True), "c": (0.0, False)}
