"""Medians, ratios, differences and tables of the benchmarks."""

from __future__ import annotations

import doctest
import importlib

import pytest
from harness.figures import against, differences, flatness, median, spread, table


def run(seconds: float, peak: int, device: int = 0) -> dict[str, float]:
    return {"seconds": seconds, "peak_bytes": peak, "device_bytes": device}


def test_the_median_and_the_spread_of_repeats() -> None:
    runs = [run(4.0, 1), run(1.0, 1), run(2.0, 1)]
    assert median(runs, "seconds") == 2.0
    assert spread(runs, "seconds") == 1.5
    assert spread(runs[:1], "seconds") == 0.0


def test_a_peer_is_told_as_how_much_slower_it_is_and_how_much_memory_it_needs() -> None:
    ours = [run(10.0, 2_000_000_000), run(30.0, 2_000_000_000), run(20.0, 2_000_000_000)]
    peers = {"peer": [run(80.0, 1_000_000_000, 8_000_000_000)]}
    us, them = against(ours, peers, work=10, unit="pair")
    assert (us["side"], us["seconds"], us["s/pair"], us["we are faster by"]) == ("truing", 20.0, 2.0, 1.0)
    assert (them["we are faster by"], them["peak GB"], them["our share of its memory"]) == (4.0, 8.0, 0.25)


def test_differences_are_the_largest_over_the_steps_that_both_logged() -> None:
    ours = [{"loss": 0.5, "grad_norm": 1.0}, {"loss": 0.25, "grad_norm": 2.0}, {"loss": 9.0}]
    theirs = [{"loss": 0.5, "entropy": 3.0}, {"loss": 0.75}]
    assert differences(ours, theirs) == {"loss": 0.5}


def test_a_table_is_markdown_with_its_numbers_to_the_right() -> None:
    text = table([{"side": "a", "seconds": 1.0}, {"side": "longer", "seconds": 123.456}])
    assert text.splitlines() == [
        "| side   | seconds |",
        "| ------ | ------: |",
        "| a      |    1.00 |",
        "| longer |     123 |",
    ]
    assert table([]) == ""


def test_a_table_of_different_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="same columns"):
        table([{"a": 1}, {"b": 1}])


def test_flat_is_the_largest_over_the_smallest() -> None:
    assert flatness([2.0, 2.2, 2.1]) == pytest.approx(0.1)
    assert flatness([3.0]) == 0.0


@pytest.mark.parametrize("name", ["figures", "record", "side"])
def test_the_examples_of_the_harness_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"harness.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
