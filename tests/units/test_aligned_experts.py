"""Experts in one order."""

from __future__ import annotations

import pytest
import torch

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.units.experts import align_experts, expert_spec
from truing.units.permutations import apply, random


def expert(seed: int, *, gated: bool, bias: bool = False) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"up": (12, 5), "down": (5, 12)}
    shapes |= {"gate": (12, 5)} if gated else {}
    shapes |= {"up_bias": (12,), "down_bias": (5,)} if bias else {}
    return {name: torch.randn(shape, generator=numbers) for name, shape in shapes.items()}


def run(one: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    up = x @ one["up"].T + one.get("up_bias", 0)
    hidden = torch.nn.functional.silu(x @ one["gate"].T) * up if "gate" in one else up.relu()
    return hidden @ one["down"].T + one.get("down_bias", 0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_reordered_clones_become_equal_and_others_keep_what_they_compute(gated: bool, bias: bool) -> None:
    first = expert(0, gated=gated, bias=bias)
    spec = expert_spec(first)
    clones = [apply(spec, random(spec, Rng(seed)), first) for seed in (1, 2)]
    other = expert(5, gated=gated, bias=bias)
    made, found = align_experts([clones[0], first, clones[1], other], anchor=1)
    for clone in (made[0], made[2]):
        assert all(torch.equal(clone[name], first[name]) for name in first)
    assert not torch.equal(clones[0]["up"], first["up"])
    x = torch.randn(4, 5)
    torch.testing.assert_close(run(made[3], x), run(other, x))
    assert found[1].index.tolist() == list(range(12))


def test_without_signs_none_changes() -> None:
    first = expert(0, gated=True)
    flipped = {**first, "up": -first["up"], "down": -first["down"]}
    (_, made), (_, order) = align_experts([first, flipped], anchor=0, signs=False)
    assert order.sign is None
    assert not torch.equal(made["up"], first["up"])
    assert torch.equal(align_experts([first, flipped], anchor=0)[0][1]["up"], first["up"])


def test_what_is_no_expert_is_refused() -> None:
    with pytest.raises(InputError, match="Give 'up' and 'down'"):
        expert_spec({"w1": torch.ones(2, 2)})
    with pytest.raises(InputError, match="2 of 1 experts"):
        align_experts([expert(0, gated=False)], anchor=2)
    with pytest.raises(InputError, match="up is"):
        align_experts([expert(0, gated=False), {**expert(0, gated=False), "up": torch.ones(3, 5)}], anchor=0)
