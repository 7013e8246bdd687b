"""Examples taken in turn, where one kind is to make up a share of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from truing.core.run import Run

T = TypeVar("T")


def in_turn(rows: Sequence[T], count: int, run: Run, name: str) -> list[T]:
    """``count`` of some rows, by name at random, none a second time before all have been taken.

    Example:
        >>> sorted(in_turn("abc", 6, Run(), "some"))
        ['a', 'a', 'b', 'b', 'c', 'c']
    """
    rounds = range(math.ceil(count / len(rows)))
    order = [i for k in rounds for i in run.rng(name, k).numpy().permutation(len(rows)).tolist()]
    return [rows[i] for i in order[:count]]
