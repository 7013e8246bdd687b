"""Phi-1, 1.5 and 2: attention and MLP side by side under one layer norm, partly rotary heads, biases throughout."""

from __future__ import annotations

from typing import Any

from truing.models.architectures.layout import Norm, Sizes, Slot, blocks_of, ends, linear, norm


def parts(config: Any) -> tuple[Sizes, dict[str, Any]]:
    """Sizes and the other fields of an Architecture."""
    sizes, tied = Sizes.of(config), config.tie_word_embeddings
    outer = ends(sizes, "model.embed_tokens", "model.final_layernorm", tied=tied, norm_bias=True, head_bias=True)
    slots = [slot for i in range(sizes.blocks) for slot in _block(config, sizes, i)]
    return sizes, {
        "prefix": "model.layers.{i}",
        "slots": (*outer, *slots),
        "blocks": blocks_of(config, sizes),
        "norm": Norm("layer", config.layer_norm_eps, 0, "parallel"),
        "activation": config.hidden_act,
        "gated": False,
        "qk_norm": bool(config.qk_layernorm),
    }


def _block(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, wide = f"model.layers.{i}", sizes.axis("stream"), sizes.axis("neurons")
    heads = (sizes.axis("head"),) if config.qk_layernorm else ()
    return (
        *linear(f"{at}.self_attn.q_proj", i, ("q",), (sizes.axis("queries"), stream), bias=True),
        *linear(f"{at}.self_attn.k_proj", i, ("k",), (sizes.axis("keys"), stream), bias=True),
        *linear(f"{at}.self_attn.v_proj", i, ("v",), (sizes.axis("values"), stream), bias=True),
        *linear(f"{at}.self_attn.dense", i, ("o",), (stream, sizes.axis("attended")), bias=True),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.q_layernorm", i, "q_norm", axis, bias=True)),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.k_layernorm", i, "k_norm", axis, bias=True)),
        *linear(f"{at}.mlp.fc1", i, ("up",), (wide, stream), bias=True),
        *linear(f"{at}.mlp.fc2", i, ("down",), (stream, wide), bias=True),
        *norm(f"{at}.input_layernorm", i, "attention_norm", stream, bias=True),
    )
