"""Llama (SmolLM2 among them), Mistral, Qwen2, Qwen3, and Phi-3, which fuses what the others keep apart."""

from __future__ import annotations

from typing import Any

from truing.models.architectures.layout import Norm, Sizes, Slot, blocks_of, ends, linear, norm


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
    at, stream, wide = f"model.layers.{i}", sizes.axis("stream"), sizes.axis("neurons")
    bias = bool(getattr(config, "attention_bias", False))
    qkv_bias = bias or config.model_type == "qwen2"
    mlp_bias = bool(getattr(config, "mlp_bias", False))
    heads = (sizes.axis("head"),) if config.model_type == "qwen3" else ()
    return (
        *linear(f"{at}.self_attn.q_proj", i, ("q",), (sizes.axis("queries"), stream), bias=qkv_bias),
        *linear(f"{at}.self_attn.k_proj", i, ("k",), (sizes.axis("keys"), stream), bias=qkv_bias),
        *linear(f"{at}.self_attn.v_proj", i, ("v",), (sizes.axis("values"), stream), bias=qkv_bias),
        *linear(f"{at}.self_attn.o_proj", i, ("o",), (stream, sizes.axis("attended")), bias=bias),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.q_norm", i, "q_norm", axis)),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.k_norm", i, "k_norm", axis)),
        *linear(f"{at}.mlp.gate_proj", i, ("gate",), (wide, stream), bias=mlp_bias),
        *linear(f"{at}.mlp.up_proj", i, ("up",), (wide, stream), bias=mlp_bias),
        *linear(f"{at}.mlp.down_proj", i, ("down",), (stream, wide), bias=mlp_bias),
        *_norms(at, sizes, i),
    )


def _fused(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, wide = f"model.layers.{i}", sizes.axis("stream"), sizes.axis("neurons")
    qkv = sizes.axis("queries") + sizes.axis("keys") + sizes.axis("values")
    return (
        *linear(f"{at}.self_attn.qkv_proj", i, ("q", "k", "v"), (qkv, stream), bias=False),
        *linear(f"{at}.self_attn.o_proj", i, ("o",), (stream, sizes.axis("attended")), bias=False),
        *linear(f"{at}.mlp.gate_up_proj", i, ("gate", "up"), (wide + wide, stream), bias=False),
        *linear(f"{at}.mlp.down_proj", i, ("down",), (stream, wide), bias=False),
        *_norms(at, sizes, i),
    )


def _norms(at: str, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    stream = sizes.axis("stream")
    return (
        *norm(f"{at}.input_layernorm", i, "attention_norm", stream),
        *norm(f"{at}.post_attention_layernorm", i, "mlp_norm", stream),
    )
