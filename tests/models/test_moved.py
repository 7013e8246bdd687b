"""How far weights have moved: from factors and as a whole."""

from __future__ import annotations

import pytest
import torch
from tiny import make_local

from truing.core.policy import Opening
from truing.models.moved import Move, inner, moves


def test_a_product_is_never_needed() -> None:
    source = torch.Generator().manual_seed(0)
    one, other, right = (torch.randn(s, generator=source, dtype=torch.float64) for s in ((7, 2), (7, 2), (2, 5)))
    torch.testing.assert_close(inner(one, other, right), ((one @ right) * (other @ right)).sum())
    torch.testing.assert_close(Move(one, right).squared, (one @ right).square().sum())
    torch.testing.assert_close(Move(one).squared, one.square().sum())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_under_adapters_they_are_what_closing_adds_to_the_weights(architecture: str) -> None:
    base = make_local(architecture)
    bench = base.open(Opening(lora_r=2, lora_alpha=8), 1)
    with torch.no_grad():
        for name, parameter in bench.module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    found = moves(bench.module, base)
    after, before = bench.close().weights(), base.weights()
    assert found
    for name, tensor in after.items():
        if name in found:
            torch.testing.assert_close(found[name].dense, tensor - before[name], rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(tensor, before[name])


def test_without_adapters_they_are_of_what_is_trained() -> None:
    base = make_local()
    bench = base.open(Opening(unfrozen_parameters=("layers.1.mlp",)))
    found = moves(bench.module, base)
    assert len(found) == 3
    assert all(move.squared == 0 and move.dense.requires_grad for move in found.values())
    bench = base.open()
    assert set(moves(bench.module, base)) == set(base.weights())
