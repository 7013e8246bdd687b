"""Transport between networks: copies, repeated units, limits, and what must not be mixed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import forward, language_model, perceptron, perceptron_spec
from tiny import ARCHITECTURES, VOCABULARY, make_model

from truing.core.errors import InputError
from truing.core.rng import Rng
from truing.models.architecture import describe
from truing.models.architectures.symmetry import permutations
from truing.units.fusion import fused, transported
from truing.units.permutations import Order, PermutationSpec, apply, random

EXACT: dict[str, Any] = {"regularisation": 0.0, "iterations": 1, "residual": "skip"}
TOKENS = torch.randint(4, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


def unsigned(spec: PermutationSpec, seed: int) -> dict[str, Order]:
    """Plans look for no signs."""
    return {name: Order(order.index) for name, order in random(spec, Rng(seed)).items()}


def logits(model: Any, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.func.functional_call(model, weights, (TOKENS,), {"use_cache": False}).logits


@pytest.mark.parametrize("residual", ["skip", "branch", "mean"])
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if "windows" not in name])
def test_a_reordered_copy_comes_back_by_exact_plans(architecture: str, residual: Any) -> None:
    _, spec, weights = language_model(architecture)
    copy = apply(spec, unsigned(spec, 1), weights)
    found = transported(spec, spec, copy, weights, **{**EXACT, "residual": residual})
    for name in weights:
        torch.testing.assert_close(found[name], weights[name])


def test_soft_plans_of_little_entropy_are_the_exact_ones_and_of_much_mix_everything() -> None:
    _, spec, weights = language_model("llama")
    other = language_model("llama", seed=1)[2]
    exact = transported(spec, spec, other, weights, **EXACT)
    near, soft = (
        transported(spec, spec, other, weights, regularisation=by, iterations=600, residual="skip")
        for by in (2e-4, 0.05)
    )
    far = transported(spec, spec, other, weights, regularisation=1e3, iterations=50, residual="skip")
    name = "model.layers.1.mlp.gate_proj.weight"
    assert (near[name] - exact[name]).abs().mean() < 0.2 * (soft[name] - exact[name]).abs().mean()
    assert (far[name] - far[name].mean(0)).abs().max() < 1e-3  # every neuron is the mean of all
    heads = "model.layers.1.self_attn.q_proj.weight"
    norms = far[heads].square().sum(), other[heads].square().sum()
    assert norms[0] < norms[1]


@pytest.mark.parametrize("regularisation", [0.0, 0.02])
def test_repeated_neurons_and_heads_come_back_to_the_narrow_model(regularisation: float) -> None:
    """Net2wider of a language model's neurons, twice each with half of what reads them, and back; and forth."""
    model, spec, weights = language_model("llama")
    wide_model = make_model("llama", intermediate_size=96)
    wide = dict(weights)
    for i in range(2):
        at = f"model.layers.{i}.mlp"
        for part in ("gate_proj", "up_proj"):
            wide[f"{at}.{part}.weight"] = weights[f"{at}.{part}.weight"].repeat(2, 1)
        wide[f"{at}.down_proj.weight"] = weights[f"{at}.down_proj.weight"].repeat(1, 2) / 2
    wide_spec = permutations(describe(wide_model.config))
    options = {"regularisation": regularisation, "iterations": 2000, "residual": "skip"}
    torch.testing.assert_close(logits(wide_model, wide), logits(model, weights), rtol=0, atol=1e-4)
    if regularisation == 0:
        back = transported(wide_spec, spec, wide, weights, **options)
        torch.testing.assert_close(logits(model, back), logits(model, weights), rtol=0, atol=1e-4)
        forth = transported(spec, wide_spec, weights, wide, **options)
        for name in wide:
            torch.testing.assert_close(forth[name], wide[name], rtol=1e-4, atol=1e-5)
    made = transported(wide_spec, spec, wide, weights, **options)
    assert {name: tensor.shape for name, tensor in made.items()} == {n: t.shape for n, t in weights.items()}


def test_a_wider_perceptron_keeps_its_function() -> None:
    """Every hidden unit twice, in another order: brought back to the narrow one's order and width, and forth."""
    narrow = perceptron(1)
    spec = perceptron_spec(narrow)
    wide = {
        "0.weight": narrow["0.weight"].repeat(2, 1), "0.bias": narrow["0.bias"].repeat(2),
        "2.weight": narrow["2.weight"].repeat(2, 2) / 2, "2.bias": narrow["2.bias"].repeat(2),
        "4.weight": narrow["4.weight"].repeat(1, 2) / 2, "4.bias": narrow["4.bias"],
    }  # fmt: skip
    wide_spec = perceptron_spec(wide)
    wide = apply(wide_spec, unsigned(wide_spec, 3), wide)
    x = torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(forward(wide, x), forward(narrow, x))
    back = transported(wide_spec, spec, wide, narrow, **EXACT)
    for name in narrow:
        torch.testing.assert_close(back[name], narrow[name])
    forth = transported(spec, wide_spec, narrow, wide, **EXACT)
    torch.testing.assert_close(forward(forth, x), forward(narrow, x), rtol=0, atol=1e-6)


def test_fewer_kv_groups_can_be_matched_and_other_head_sizes_cannot() -> None:
    _, spec, weights = language_model("llama", num_attention_heads=8, num_key_value_heads=4, head_dim=8)
    _, small, narrow = language_model("llama", num_attention_heads=4, num_key_value_heads=2, head_dim=8, hidden_size=24)
    made = transported(spec, small, weights, narrow, **EXACT)
    assert {name: tensor.shape for name, tensor in made.items()} == {n: t.shape for n, t in narrow.items()}
    assert all(bool(tensor.isfinite().all()) for tensor in made.values())
    _, odd, others = language_model("llama", head_dim=16)
    with pytest.raises(InputError, match="16 numbers for each of heads"):
        transported(odd, spec, others, weights, **EXACT)


def test_what_cannot_be_transported_is_refused() -> None:
    _, spec, weights = language_model("llama")
    _, deep, deeper = language_model("llama", num_hidden_layers=3)
    with pytest.raises(InputError, match="another kind of network"):
        transported(deep, spec, deeper, weights, **EXACT)
    _, wide, others = language_model("llama", hidden_size=64, head_dim=8)
    with pytest.raises(InputError, match="an identity between streams of unequal widths"):
        transported(wide, spec, others, weights, **{**EXACT, "residual": "identity"})
    _, words, fewer = language_model("llama", vocab_size=50)
    with pytest.raises(InputError, match="50 numbers where the anchor has"):
        transported(words, spec, fewer, weights, **EXACT)
    with pytest.raises(InputError, match="not finite"):
        transported(spec, spec, {**weights, "model.norm.weight": torch.full((32,), torch.nan)}, weights, **EXACT)


def test_fusing_is_the_line_between_the_anchor_and_the_mean_of_donors() -> None:
    anchor, one, two = ({"w": torch.full((2,), v), "n": torch.tensor(3)} for v in (0.0, 2.0, 4.0))
    made = fused(anchor, [one, two], 0.25)
    assert made["w"].tolist() == [0.75, 0.75]
    assert made["n"] is anchor["n"]
    assert torch.equal(fused(anchor, [one], 0.0)["w"], anchor["w"])
