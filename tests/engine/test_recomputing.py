"""Activations computed twice: the same gradient from less memory, and a model that does not remember it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from fitting import TREES, flat, train
from tiny import ARCHITECTURES, make_local, same_weights

from truing.core.errors import InputError
from truing.core.policy import Opening, Workbench
from truing.core.trees import Tree
from truing.models import adapters
from truing.models.adapters import recomputing
from truing.models.local import Local


def kept(bench: Workbench) -> int:
    """Bytes that a pass keeps for its backward pass, parameters apart."""
    parameters = {p.untyped_storage().data_ptr() for p in bench.module.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no address is given out twice
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        bench.score(TREES).tokens.sum()
    return sum(held.values())


def gradients(bench: Workbench) -> dict[str, torch.Tensor]:
    bench.score(TREES).tokens.sum().backward()
    return {name: p.grad for name, p in bench.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}, {"lora_r": 4, "use_dora": True}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_is_the_same(architecture: str, settings: dict[str, Any]) -> None:
    """With the block mask, and by kinds of layer where some slide."""
    base = make_local(architecture)
    once = gradients(base.open(Opening(**settings)))
    twice = gradients(base.open(Opening(gradient_checkpointing=True, **settings)))
    assert once.keys() == twice.keys() != set()
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], gradient, rtol=1e-5, atol=1e-6)


def test_five_steps_end_alike(tiny_policy: Local) -> None:
    assert same_weights(train(tiny_policy, gradient_checkpointing=True), train(tiny_policy))


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}])
def test_less_is_kept_and_blocks_run_twice(settings: dict[str, Any]) -> None:
    base = make_local(num_hidden_layers=6)
    once = base.open(Opening(**settings))
    twice = base.open(Opening(gradient_checkpointing=True, **settings))
    base.scorer.prove(TREES)
    assert kept(twice) < kept(once) / 3
    calls: list[int] = []
    for bench in (once, twice):
        bench.score(TREES)  # the layout is proved
        handle = bench.module.model.layers[0].mlp.register_forward_pre_hook(lambda *given: calls.append(1))
        calls.clear()
        bench.score(TREES).tokens.sum().backward()
        assert len(calls) == (1 if bench is once else 2)
        handle.remove()


def test_what_one_pass_may_not_keep_is_computed_twice() -> None:
    """A tree that is longer than a pass may be goes alone, and takes no more memory for it."""
    bench = make_local(num_hidden_layers=6).open(Opening())
    bench.score(TREES)  # the layout is proved
    bench.most_kept = sum(tree.size for tree in TREES)
    whole = kept(bench)
    bench.most_kept -= 1
    assert kept(bench) < whole / 3


@pytest.mark.parametrize(("most", "twice"), [(10**6, False), (1, True)])
def test_the_loop_says_how_long_a_pass_may_be(
    most: int, twice: bool, tiny_policy: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(adapters, "recomputing", lambda model: calls.append(1) or nullcontext())
    train(tiny_policy, tokens_per_batch=most)
    assert bool(calls) == twice


def test_a_long_tree_of_a_model_without_marked_blocks_is_kept(
    tiny_policy: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "blocks", lambda model: [])
    long = train(tiny_policy, tokens_per_batch=1)
    torch.testing.assert_close(flat(long), flat(train(tiny_policy, tokens_per_batch=10**6)), rtol=0, atol=1e-5)


def test_a_model_does_not_remember_it(tiny_policy: Local) -> None:
    """A copy of it must run its own blocks, not those of the model that it was copied from."""
    bench = tiny_policy.open(Opening(gradient_checkpointing=True))
    bench.score(TREES)
    with pytest.raises(ValueError, match="at least one prompt token"):
        bench.score([Tree((), ((5,),))])
    assert not any("forward" in vars(module) for module in bench.module.modules())
    other = copy.deepcopy(bench.module)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.zero_()
        assert not torch.equal(other(torch.tensor([[5, 6]])).logits, bench.module(torch.tensor([[5, 6]])).logits)


def test_a_model_without_marked_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="does not mark the blocks of Linear"), recomputing(torch.nn.Linear(2, 2)):
        pass
