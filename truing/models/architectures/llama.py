"""Llama (SmolLM2 among them), Mistral, Qwen2, Qwen3, and Phi-3, which fuses what the others keep apart."""

from __future__ import annotations

from typing import Any

from truing.models.architectures.layout import Axis, Norm, Sizes, Slot, blocks_of, ends, linear, norm


def parts(config: Any) -> tuple[Sizes, dict[str, Any]]:
    """Sizes and the other fields of an Architecture."""
    sizes = Sizes.of(config)
    block = _fused if config.model_type == "phi3" else _apart
    slots = [slot for i in range(sizes.blocks) for slot in block(config, sizes, i)]
    return sizes, {
        "prefix": "model.layers.{i}",
        "slots": (*ends(sizes, "model.embed_tokens", "model.norm", tied=config.tie_word_embeddings), *slots),
        "blocks": blocks_of(config, sizes, windowed=config.model_type in {"mistral", "phi3"}),
        "norm": Norm("rms", config.rms_norm_eps),
        "activation": config.hidden_act,
        "qk_norm": config.model_type == "qwen3",
    }


def _apart(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    bias = bool(getattr(config, "attention_bias", False))
    heads = sizes.axis("head") if config.model_type == "qwen3" else None
    return (
        *attention(sizes, i, bias=bias, qkv_bias=bias or config.model_type == "qwen2", norms=(heads, heads)),
        *mlp(f"model.layers.{i}.mlp", sizes, i, bias=bool(getattr(config, "mlp_bias", False))),
        *norms(sizes, i),
    )


def attention(
    sizes: Sizes, i: int, *, bias: bool, qkv_bias: bool, norms: tuple[Axis | None, Axis | None] = (None, None)
) -> tuple[Slot, ...]:
    """Queries, keys and values apart. ``norms`` are the axes of the norms of queries and keys, where there are any."""
    at, stream, (queries, keys) = f"model.layers.{i}.self_attn", sizes.axis("stream"), norms
    return (
        *linear(f"{at}.q_proj", i, ("q",), (sizes.axis("queries"), stream), bias=qkv_bias),
        *linear(f"{at}.k_proj", i, ("k",), (sizes.axis("keys"), stream), bias=qkv_bias),
        *linear(f"{at}.v_proj", i, ("v",), (sizes.axis("values"), stream), bias=qkv_bias),
        *linear(f"{at}.o_proj", i, ("o",), (stream, sizes.axis("attended")), bias=bias),
        *(norm(f"{at}.q_norm", i, "q_norm", queries) if queries else ()),
        *(norm(f"{at}.k_norm", i, "k_norm", keys) if keys else ()),
    )


def mlp(at: str, sizes: Sizes, i: int, *, bias: bool = False) -> tuple[Slot, ...]:
    """A gated MLP, its matrices apart."""
    stream, wide = sizes.axis("stream"), sizes.axis("neurons")
    return (
        *linear(f"{at}.gate_proj", i, ("gate",), (wide, stream), bias=bias),
        *linear(f"{at}.up_proj", i, ("up",), (wide, stream), bias=bias),
        *linear(f"{at}.down_proj", i, ("down",), (stream, wide), bias=bias),
    )


def _fused(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, wide = f"model.layers.{i}", sizes.axis("stream"), sizes.axis("neurons")
    qkv = sizes.axis("queries") + sizes.axis("keys") + sizes.axis("values")
    return (
        *linear(f"{at}.self_attn.qkv_proj", i, ("q", "k", "v"), (qkv, stream), bias=False),
        *linear(f"{at}.self_attn.o_proj", i, ("o",), (stream, sizes.axis("attended")), bias=False),
        *linear(f"{at}.mlp.gate_up_proj", i, ("gate", "up"), (wide + wide, stream), bias=False),
        *linear(f"{at}.mlp.down_proj", i, ("down",), (stream, wide), bias=False),
        *norms(sizes, i),
    )


def norms(sizes: Sizes, i: int) -> tuple[Slot, ...]:
    """One before attention, one before the MLP."""
    at, stream = f"model.layers.{i}", sizes.axis("stream")
    return (
        *norm(f"{at}.input_layernorm", i, "attention_norm", stream),
        *norm(f"{at}.post_attention_layernorm", i, "mlp_norm", stream),
    )
