"""A description is proved by computing the model from it alone."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from truing.core.errors import InputError
from truing.models.architecture import KNOWN, Architecture, describe
from truing.models.architectures.layout import Block

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
TURNS = {"rope_type": "default", "rope_theta": 500.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**SMALL, "rope_parameters": TURNS}),
    "llama-tied-biases": (
        "llama",
        {**SMALL, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "mistral": ("mistral", {**SMALL, "sliding_window": 5}),
    "qwen2": ("qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("gemma", {**SMALL, "head_dim": 16}),
    "gemma2": ("gemma2", {**SMALL, "head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 9}),
    "gemma3": ("gemma3_text", {**SMALL, "head_dim": 16, "sliding_window": 5, "sliding_window_pattern": 2}),
    "gpt2": ("gpt2", GPT2),
    "gpt2-odd": (
        "gpt2",
        {**GPT2, "n_inner": 20, "scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False},
    ),
    "phi": ("phi", SMALL),
    "phi-qk-norm": ("phi", {**SMALL, "qk_layernorm": True}),
    "phi3": ("phi3", {**SMALL, "sliding_window": 5}),
    "mixtral": ("mixtral", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5}),
    "qwen2-moe": ("qwen2_moe", {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 12, "decoder_sparse_step": 2}),
    "qwen3-moe": ("qwen3_moe", {**SMALL, **EXPERTS, "norm_topk_prob": True, "attention_bias": True}),
    "olmoe": ("olmoe", {**SMALL, "num_experts": 4, "num_experts_per_tok": 2}),
}
TOKENS = torch.randint(0, 50, (2, 13), generator=torch.Generator().manual_seed(0))


def make(case: str) -> tuple[Any, Architecture, dict[str, Tensor]]:
    """A tiny random model in float64, but for the norms, which transformers computes in float32."""
    import transformers

    kind, settings = CASES[case]
    config = transformers.CONFIG_MAPPING[kind](**settings)
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
        if hasattr(model.config, "_experts_implementation"):
            model.config._experts_implementation = "eager"  # grouped products know no float64
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    architecture, weights = describe(model.config), {k: v.detach() for k, v in model.state_dict().items()}
    weights.update({slot.name: weights[slot.tied_to] for slot in architecture.slots if slot.tied_to})
    return model, architecture, weights


def logits_of(model: Any, weights: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(model, dict(weights), (TOKENS,), {"use_cache": False}).logits


def test_every_described_type_is_tested() -> None:
    assert {kind for kind, _ in CASES.values()} == KNOWN


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_is_named_once_with_its_shape(case: str) -> None:
    model, architecture, weights = make(case)
    names = [slot.name for slot in architecture.slots]
    assert sorted(names) == sorted(weights)
    assert architecture.mismatches({name: tuple(w.shape) for name, w in weights.items()}) == ()
    assert architecture.tied == (model.lm_head.weight is model.get_input_embeddings().weight)
    assert any(
        "not described" in m for m in architecture.mismatches({**{n: w.shape for n, w in weights.items()}, "x": ()})
    )
    assert "is missing" in " ".join(architecture.mismatches({}))


@pytest.mark.parametrize("case", CASES)
def test_the_description_alone_computes_the_model(case: str) -> None:
    """Norms, offsets, rotary positions, windows, scales, caps, fusing, transposing: all enter here."""
    model, architecture, weights = make(case)
    torch.testing.assert_close(forward(architecture, weights), logits_of(model, weights), rtol=1e-5, atol=1e-5)


def test_a_tied_head_that_a_file_leaves_out_is_read_from_the_embedding() -> None:
    _, architecture, weights = make("llama-tied-biases")
    file = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    assert architecture.mismatches({name: tuple(tensor.shape) for name, tensor in file.items()}) == ()
    assert torch.equal(architecture.read(file, "head"), file["model.embed_tokens.weight"])


def test_an_unknown_architecture_says_what_it_lacks_and_what_works() -> None:
    import transformers

    architecture = describe(transformers.CONFIG_MAPPING["opt"](num_hidden_layers=3, hidden_size=16))
    assert not architecture.known
    assert architecture.sizes.blocks == 3
    assert {"steering", "matching", "merging by block"} <= set(architecture.lacks)
    assert {"sampling", "scoring", "training"} <= set(architecture.works)
    architecture.require("training", "sampling")
    with pytest.raises(InputError, match=r"'opt': no description, so no steering\. What works: sampling"):
        architecture.require("steering")
    assert "no description" in str(architecture)
    assert describe(object()).model_type == "unknown"


def test_importing_descriptions_does_not_import_torch() -> None:
    import subprocess

    code = "import sys, truing.models.architectures.symmetry as m, truing.models.architectures.gemma; "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module("truing.models.architectures.llama").parts


def forward(a: Architecture, weights: Mapping[str, Tensor]) -> Tensor:
    """Logits ``(B, T, V)`` from a description and weights: nothing else is known of the model."""

    def role(name: Any, i: int | None, x: Tensor) -> Tensor:
        bias = a.read(weights, name, i, "bias")
        return x @ a.read(weights, name, i).T + (0 if bias is None else bias)

    def norm(name: Any, i: int | None, x: Tensor) -> Tensor:
        weight = a.read(weights, name, i)
        if weight is None:
            return x
        if a.norm.kind == "layer":
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + a.norm.epsilon).sqrt()
            return scaled * weight + a.read(weights, name, i, "bias")
        return x / (x.pow(2).mean(-1, keepdim=True) + a.norm.epsilon).sqrt() * (weight + a.norm.offset)

    def split(name: Any, i: int, x: Tensor) -> Tensor:
        flat = role(name, i, x)
        together = a.qk_norm and name in {"q", "k"} and a.read(weights, f"{name}_norm", i).shape[0] == flat.shape[-1]
        heads = (
            (norm(f"{name}_norm", i, flat) if together else flat).unflatten(-1, (-1, a.sizes.head_dim)).transpose(1, 2)
        )
        if a.qk_norm and name in {"q", "k"} and not together:
            heads = norm(f"{name}_norm", i, heads)
        return heads if name == "v" else turn(a.blocks[i], heads)

    def attention(i: int, x: Tensor) -> Tensor:
        q, k, v = (split(name, i, x) for name in ("q", "k", "v"))
        group = a.sizes.heads // a.sizes.kv_heads
        scores = q @ k.repeat_interleave(group, 1).transpose(2, 3) * a.blocks[i].attention_scale
        scores = capped(scores, a.attention_cap)
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        seen = (back >= 0) & (back < (a.blocks[i].window or math.inf))
        mixed = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v.repeat_interleave(group, 1)
        return role("o", i, mixed.transpose(1, 2).flatten(2))

    def mlp(i: int, x: Tensor) -> Tensor:
        from transformers.activations import ACT2FN

        if i in a.mixtures:
            return mixture(i, x, ACT2FN[a.activation])
        act, up = ACT2FN[a.activation], role("up", i, x)
        return role("down", i, act(role("gate", i, x)) * up if a.gated else act(up))

    def mixture(i: int, x: Tensor, act: Any) -> Tensor:
        chances = role("router", i, x).softmax(-1)
        least = chances.topk(a.sizes.experts_per_token).values[..., -1:]
        chances = chances * (chances >= least)
        if a.model_type in {"mixtral", "qwen3_moe"}:  # the chances of those that are taken sum to one
            chances = chances / chances.sum(-1, keepdim=True)
        parts = (a.read(weights, name, i) for name in ("expert_gate", "expert_up", "expert_down"))
        out = torch.zeros_like(x)
        for row, (gate, up, down) in enumerate(zip(*parts, strict=True)):
            out = out + chances[..., row, None] * ((act(x @ gate.T) * (x @ up.T)) @ down.T)
        if a.sizes.shared_neurons:
            beside = role("shared_down", i, act(role("shared_gate", i, x)) * role("shared_up", i, x))
            out = out + role("shared_switch", i, x).sigmoid() * beside
        return out

    x = a.read(weights, "embedding")[TOKENS] * a.embedding_scale
    positions = a.read(weights, "position_embedding")
    x = x if positions is None else x + positions[: x.shape[1]]
    for i in range(a.sizes.blocks):
        normed = norm("attention_norm", i, x)
        if a.norm.placement == "parallel":
            x = x + attention(i, normed) + mlp(i, normed)
            continue
        x = x + norm("attention_post_norm", i, attention(i, normed))
        x = x + norm("mlp_post_norm", i, mlp(i, norm("mlp_norm", i, x)))
    return capped(role("head", None, norm("final_norm", None, x)), a.logit_cap)


def turn(block: Block, heads: Tensor) -> Tensor:
    if block.rope is None:
        return heads
    out = heads.clone()
    for j, (first, second) in enumerate(block.rope.pairs):
        angle = torch.arange(heads.shape[2]) * block.rope.theta ** (-2 * j / block.rope.dimensions)
        cos, sin = angle.double().cos(), angle.double().sin()
        out[..., first] = heads[..., first] * cos - heads[..., second] * sin
        out[..., second] = heads[..., second] * cos + heads[..., first] * sin
    return out


def capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * (x / cap).tanh()
