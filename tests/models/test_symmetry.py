"""What may move in a described model leaves its logits; what may not has no way to be written down."""

from __future__ import annotations

import pytest
import torch
from test_architecture import CASES, logits_of, make

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.models.architecture import describe
from truing.models.architectures.symmetry import permutations, scaled, turned
from truing.units.permutations import Order, PermutationSpec, apply, invert, random, same

EVERY = pytest.mark.parametrize("case", CASES)


@EVERY
def test_every_group_alone_leaves_the_logits_and_changes_weights(case: str) -> None:
    model, architecture, weights = make(case)
    spec, before = permutations(architecture), logits_of(model, weights)
    assert spec.mismatches({name: tuple(tensor.shape) for name, tensor in weights.items()}) == ()
    kinds = {name.split(".")[0] for name in spec.groups}
    inner = {"experts"} if architecture.mixtures else {"neurons"}
    inner |= {"shared", "neurons"} if case == "qwen2-moe" else set()  # one block of its two has experts
    assert kinds - {"keys"} == {"stream", "groups", "values"} | inner | ({"heads"} if "gpt2" not in case else set())
    assert ("keys" in kinds) == (case in {"gpt2", "gpt2-odd", "phi"})
    for name in (name for name in spec.groups if name == "stream" or name.endswith(".1")):
        order = moving(spec, name)
        after = apply(spec, order, weights)
        assert any(not torch.equal(after[key], weights[key]) for key in weights), name
        torch.testing.assert_close(logits_of(model, after), before, rtol=0, atol=1e-5)


def moving(spec: PermutationSpec, name: str) -> dict[str, Order]:
    """An order of one group that leaves no group as it is; the units of others stay."""
    size = spec.inside(spec.groups[name])
    home, places = torch.arange(spec.groups[name].units) // size * size, torch.arange(spec.groups[name].units)
    for seed in range(99):
        drawn = random(spec, Rng(seed))[name]
        order = Order(drawn.index % size + home, drawn.sign)
        if bool((order.index != places).any()):
            return {name: order}
    raise AssertionError(f"{name} does not move")


@EVERY
def test_all_at_once_leave_the_logits_and_are_undone_to_the_last_bit(case: str) -> None:
    """Every group of every block, signs included."""
    model, architecture, weights = make(case)
    spec = permutations(architecture)
    drawn = random(spec, Rng(5))
    signed = {name for name, order in drawn.items() if order.sign is not None}
    assert ("stream" in signed) == (architecture.norm.kind == "rms")
    assert ("neurons.0" in signed) == (architecture.gated and 0 not in architecture.mixtures)
    after = apply(spec, drawn, weights)
    torch.testing.assert_close(logits_of(model, after), logits_of(model, weights), rtol=0, atol=1e-5)
    back = apply(spec, invert(drawn), after)
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert same(spec, invert(invert(drawn)), drawn)


@EVERY
def test_in_float32_everything_together_leaves_the_logits_to_a_ten_thousandth(case: str) -> None:
    """Orders, signs, turns and scales of every block at once."""
    model, architecture, weights = make(case)
    model, weights = model.float(), {name: tensor.float() for name, tensor in weights.items()}
    weights |= {slot.name: weights[slot.tied_to] for slot in architecture.slots if slot.tied_to}
    after = apply(permutations(architecture), random(permutations(architecture), Rng(8)), weights)
    for i, block in enumerate(architecture.blocks):
        if block.rope is not None and not architecture.qk_norm:
            shape = (architecture.sizes.kv_heads, block.rope.dimensions // 2)
            after = turned(architecture, after, i, torch.polar(torch.full(shape, 1.5), torch.full(shape, 0.7 + i)))
        if architecture.gated and i not in architecture.mixtures:
            after = scaled(architecture, after, i, torch.full((architecture.sizes.intermediate,), -1.5))
    torch.testing.assert_close(logits_of(model, after), logits_of(model, weights), rtol=0, atol=1e-4)


@EVERY
def test_turned_pairs_and_scaled_neurons_leave_the_logits(case: str) -> None:
    model, architecture, weights = make(case)
    numbers = torch.Generator().manual_seed(0)
    before, tried = logits_of(model, weights), 0
    rope = architecture.blocks[1].rope
    if rope is not None and not architecture.qk_norm:
        shape = (architecture.sizes.kv_heads, rope.dimensions // 2)
        length, angle = (torch.rand(shape, generator=numbers, dtype=torch.float64) for _ in range(2))
        after = turned(architecture, weights, 1, torch.polar(length + 0.5, 6 * angle))
        assert (after[architecture.slot("q", 1).name] - weights[architecture.slot("q", 1).name]).abs().max() > 0.1
        torch.testing.assert_close(logits_of(model, after), before, rtol=0, atol=1e-5)
        tried += 1
    if architecture.gated and 0 not in architecture.mixtures:
        factors = torch.randn(architecture.sizes.intermediate, generator=numbers, dtype=torch.float64)
        after = scaled(architecture, weights, 0, factors)
        assert (after[architecture.slot("up", 0).name] - weights[architecture.slot("up", 0).name]).abs().max() > 0.1
        torch.testing.assert_close(logits_of(model, after), before, rtol=0, atol=1e-5)
        tried += 1
    assert tried or case.startswith("gpt2") or case in {"phi-qk-norm", "qwen3-moe", "olmoe"}


def test_what_would_change_the_function_does_change_it() -> None:
    """The tests above can fail: a query's dimensions turned without the key's, a head moved without its outputs."""
    model, architecture, weights = make("llama")
    before, name = logits_of(model, weights), architecture.slot("q", 0).name
    for moved in (weights[name].roll(8, 0), weights[name].view(4, 8, -1).roll(1, 1).view_as(weights[name])):
        assert (logits_of(model, {**weights, name: moved}) - before).abs().max() > 1e-3
    keys = architecture.slot("k", 0).name
    both = {n: weights[n].view(-1, 8, 32).roll(1, 1).reshape(weights[n].shape) for n in (name, keys)}
    assert (logits_of(model, {**weights, **both}) - before).abs().max() > 1e-3


def test_illegal_orders_are_refused() -> None:
    _, architecture, weights = make("llama")
    spec = permutations(architecture)
    with pytest.raises(InputError, match=r"permutation\.keys\.0: dimensions of queries and keys have rotary positions"):
        apply(spec, {"keys.0": Order(torch.arange(16).flip(0))}, weights)
    with pytest.raises(InputError, match=r"units leave their groups: each 8 stay together and follow groups\.0"):
        apply(spec, {"values.0": Order(torch.arange(16).flip(0))}, weights)
    with pytest.raises(InputError, match="units leave their groups: each 2 stay together"):
        apply(spec, {"heads.0": Order(torch.tensor([2, 1, 0, 3]))}, weights)
    with pytest.raises(InputError, match="no order of 24 units"):
        apply(spec, {"neurons.0": Order(torch.zeros(24, dtype=torch.int64))}, weights)
    with pytest.raises(InputError, match="cannot change their sign"):
        apply(spec, {"groups.1": Order(torch.arange(2), -torch.ones(2, dtype=torch.int64))}, weights)
    with pytest.raises(InputError, match="the vocabulary's order is the tokenizer's"):
        apply(spec, {"vocabulary": Order(torch.arange(50))}, weights)
    partly = permutations(make("phi")[1])
    with pytest.raises(InputError, match="the first 4 of every 8 have rotary positions"):
        partly.complete({"keys.0": Order(torch.arange(16).flip(0)), "groups.0": Order(torch.arange(2).flip(0))})
    norm = permutations(make("gpt2")[1])
    with pytest.raises(InputError, match=r"permutation\.stream: its units cannot change their sign"):
        norm.complete({"stream": Order(torch.arange(32), -torch.ones(32, dtype=torch.int64))})


def test_what_is_no_symmetry_of_an_architecture_is_refused() -> None:
    import transformers

    with pytest.raises(InputError, match="matching"):
        permutations(describe(transformers.CONFIG_MAPPING["opt"](num_hidden_layers=3, hidden_size=16)))
    _, gpt2, weights = make("gpt2")
    with pytest.raises(InputError, match="no rotary positions"):
        turned(gpt2, weights, 0, torch.ones(4, 4, dtype=torch.complex128))
    with pytest.raises(InputError, match="no gate"):
        scaled(gpt2, weights, 0, torch.ones(128))
    _, llama, weights = make("llama")
    with pytest.raises(InputError, match=r"Give \(2, 4\) numbers other than 0"):
        turned(llama, weights, 0, torch.zeros(2, 4, dtype=torch.complex128))


def test_a_tied_head_that_a_file_leaves_out_stays_out() -> None:
    _, architecture, weights = make("llama-tied-biases")
    file = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    spec = permutations(architecture)
    assert set(apply(spec, random(spec, Rng(0)), file)) == set(file)
