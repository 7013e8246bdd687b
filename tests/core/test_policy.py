"""How to draw: what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from truing.core.errors import InputError
from truing.core.policy import Sampling


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 1.5},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.01},
        {"stop": ("",)},
        {"stop": "END"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"sampling: .*{next(iter(wrong))}"):
        Sampling(**wrong)


def test_every_fault_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Sampling(temperature=-1, top_p=2, top_k=-3)
    assert len(caught.value.faults) == 3


def test_a_list_of_stop_texts_is_a_tuple() -> None:
    assert Sampling(stop=["a", "b"]) == Sampling(stop=("a", "b"))  # type: ignore[arg-type] # as a recipe gives it
