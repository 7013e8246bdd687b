"""merge/nuslerp."""

from __future__ import annotations

import math

import pytest
import torch
from bags import close, merged, vector

from truing.core.errors import InputError


def arc(one: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    angle = math.acos(float(one @ other / one.norm() / other.norm()))
    return (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)


BASE, ONE, OTHER = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_weights_say_where_on_the_arc_between_the_differences() -> None:
    wanted = BASE + arc((ONE - BASE).flatten(), (OTHER - BASE).flatten(), 0.25).reshape(4, 5)
    close(merged("merge/nuslerp", BASE, ONE, OTHER, weight=(3.0, 1.0)), wanted)


def test_from_zero_it_is_slerp_of_the_donors() -> None:
    wanted = merged("merge/slerp", ONE, OTHER, t=0.4)
    close(merged("merge/nuslerp", BASE, ONE, OTHER, weight=(0.6, 0.4), origin="zero"), wanted)


@pytest.mark.parametrize("columns", [False, True])
def test_rows_or_columns_one_by_one(columns: bool) -> None:
    made = merged("merge/nuslerp", BASE, ONE, OTHER, origin="zero", nuslerp_flatten=False, nuslerp_row_wise=columns)
    pairs = zip(ONE.T, OTHER.T, strict=True) if columns else zip(ONE, OTHER, strict=True)
    wanted = torch.stack([arc(one, other, 0.5) for one, other in pairs])
    close(made, wanted.T if columns else wanted)


def test_parallel_rows_lie_on_a_line() -> None:
    close(merged("merge/nuslerp", vector(0, 0), vector(1, 2), vector(3, 6), nuslerp_flatten=False), [2, 4])


def test_two_donors() -> None:
    with pytest.raises(InputError, match="takes 2 donors beside the base, not 1"):
        merged("merge/nuslerp", BASE, ONE)
