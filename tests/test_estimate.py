"""benchmarks/estimate.py: counts against real models, and its arithmetic against sums done by hand."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import make_model

from truing.core.trees import Tree
from truing.engine.score import score_packed
from truing.engine.vocabulary import CHUNK

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "estimate.py"


@pytest.fixture(scope="module")
def estimate() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("estimate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("changed", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4, "hidden_size": 64}])
def test_parameters_are_those_of_the_model(estimate: ModuleType, changed: dict[str, Any]) -> None:
    model = make_model("llama", **changed)
    shape = estimate.Shape.of(model.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_published_sizes(estimate: ModuleType) -> None:
    assert estimate.LLAMA_8B.parameters == 8_030_261_248
    assert estimate.LLAMA_70B.parameters == 70_553_706_496


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("widths", [(48, 80, 3, 6, 2, 8), (96, 64, 2, 4, 4, 16)])
def test_activations_are_what_autograd_keeps(
    estimate: ModuleType, widths: tuple[int, int, int, int, int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On shapes that the constants were not solved from; what the projection holds is not kept, and left out here."""
    hidden, intermediate, layers, heads, keys, head = widths
    model = make_model(
        "llama", hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, head_dim=head,
    )  # fmt: skip
    shape = estimate.Shape.of(model.config.to_dict())
    trees = [Tree((4 + i,) * 32, ((5,) * 16, (6,) * 16)) for i in range(8)]  # they begin with nothing in common
    monkeypatch.setattr("truing.engine.vocabulary.CHUNK", 1)  # of which the last is kept
    tokens = sum(tree.size for tree in trees)
    plan = estimate.Plan(bf16=bf16, pass_tokens=tokens)
    constants = replace(estimate.Constants(), logit_copies=0)
    told = estimate.activations(shape, plan, constants) + estimate.memory(shape, plan, constants)["gathered"]
    assert told == pytest.approx(kept(model, trees, bf16), rel=0.03)


def kept(model: Any, trees: list[Tree], bf16: bool) -> int:
    """Bytes of the storages that the backward pass of one packed pass needs, parameters aside."""
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in storages:
            found.setdefault(place, tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        score_packed(model, trees)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_memory_by_hand(estimate: ModuleType) -> None:
    """Four numbers of four bytes a parameter, which shards divide; around it two, which they do not."""
    shape = estimate.Shape("x", 8, 16, 1, 2, 1, 4, 10, tied=True)
    layer = 8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 16 + 2 * 8
    n = layer + 10 * 8 + 8
    assert shape.parameters == n == 680
    constants = estimate.Constants()
    whole = estimate.memory(shape, estimate.Plan(), constants)
    assert [whole[k] for k in ("weights", "moments", "gradients")] == [4 * n, 8 * n, 4 * n]
    assert whole["gathered"] == 2 * layer
    assert estimate.around(shape, estimate.Plan(devices=4), constants) == 8 * n
    assert estimate.around(shape, estimate.Plan(devices=4, sharded=True), constants) == 9 * n
    assert estimate.memory(shape, estimate.Plan(bf16=False), constants)["gathered"] == 0
    parts = estimate.memory(shape, estimate.Plan(devices=4, sharded=True, bf16=False), constants)
    assert [parts[k] for k in ("weights", "moments", "gradients")] == [n, 2 * n, n]
    assert parts["gathered"] == 2 * 4 * (2 * layer + 80)
    once = estimate.activations(shape, estimate.Plan(pass_tokens=10), constants)
    assert once == 10 * (26 * 8 + 8 * 16 + 6 * 8 + 7 * 4 + 12 * 8) + 3 * 4 * 10 * 10
    two = replace(shape, layers=2)
    plans = [estimate.Plan(pass_tokens=10, checkpointing=again) for again in (False, True)]
    kept = [estimate.activations(two, plan, constants) - once for plan in plans]
    assert kept == [10 * (26 * 8 + 8 * 16 + 6 * 8 + 7 * 4), 10 * 2 * 4 * 8]


def test_operations_by_hand(estimate: ModuleType) -> None:
    """Forward, twice that backward, and the base's forward: eight a parameter that multiplies, and attention's."""
    shape = estimate.Shape("x", 8, 16, 1, 2, 1, 4, 10, tied=True)
    plan = estimate.Plan(devices=2)
    assert estimate.token_flops(shape, plan, 0) == 8 * 680
    assert estimate.token_flops(shape, plan, 100) == 4 * (2 * 680 + 4 * 8 * 50)
    again = replace(plan, checkpointing=True)
    assert estimate.token_flops(shape, again, 0) == 10 * 680
    seconds = estimate.seconds_per_token(shape, plan, replace(estimate.Constants(), utilisation=0.5), 1e3, 0)
    assert seconds == pytest.approx(8 * 680 / (2 * 1e3 * 0.5))


def test_the_chunk_is_the_engine_s(estimate: ModuleType) -> None:
    assert estimate.Constants().chunk == CHUNK
