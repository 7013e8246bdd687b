"""Streams are their seed and their name: independent, repeatable, deaf to order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from truing.core.rng import Rng
from truing.core.run import Run

names = st.lists(st.text(max_size=5) | st.integers(), max_size=4)


@given(names, names)
def test_a_path_is_its_parts(first: list[object], second: list[object]) -> None:
    assert Rng(1).child(*first).child(*second) == Rng(1).child(*first, *second)


@given(
    st.lists(st.text(alphabet="ab/", max_size=3), max_size=3), st.lists(st.text(alphabet="ab/", max_size=3), max_size=3)
)
def test_other_names_are_other_streams(first: list[str], second: list[str]) -> None:
    """Also where the letters are the same and only the cuts between names differ."""
    assert (Rng(0).child(*first).integer() == Rng(0).child(*second).integer()) == (first == second)


def test_other_seeds_are_other_streams() -> None:
    assert len({Rng(seed).child("fit", 0).integer() for seed in range(1000)}) == 1000
    assert Rng(1).child("2").integer() != Rng(12).integer()


def test_a_stream_is_the_same_whatever_was_drawn_before() -> None:
    rng = Rng(3)
    first = rng.child("a").numpy().random(5)
    rng.child("b").numpy().random(100)
    np.random.default_rng().random(3)
    assert np.array_equal(rng.child("a").numpy().random(5), first)
    assert np.array_equal(rng.child("a").numpy().random(2), first[:2])


def test_integers_are_small_enough_for_every_generator() -> None:
    drawn = [Rng(0).child(k).integer() for k in range(2000)]
    assert min(drawn) >= 0
    assert max(drawn) < 2**63
    assert abs(np.mean(drawn) / 2**62 - 1) < 0.06


def test_streams_look_uniform_and_unrelated() -> None:
    table = np.stack([Rng(0).child("draw", k).numpy().random(400) for k in range(40)])
    counts, _ = np.histogram(table, bins=20, range=(0, 1))
    expected = table.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 19 degrees of freedom, p = 0.001
    related = np.corrcoef(table) - np.eye(40)
    assert np.abs(related).max() < 0.25


def test_another_process_draws_the_same() -> None:
    code = "from truing.core.rng import Rng; print(Rng(5).child('fit', 'shuffle', 2).integer())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == Rng(5).child("fit", "shuffle", 2).integer()


def test_a_run_hands_out_streams_of_its_seed() -> None:
    run = Run(seed=9)
    assert run.rng("a", 1) == Rng(9, ("a", "1"))
    assert run.within("part").rng("a") == run.rng("a")
