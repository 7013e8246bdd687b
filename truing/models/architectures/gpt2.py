"""GPT-2: learned positions, layer norms, one fused and transposed attention projection, no gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from truing.models.architectures.layout import Block, Norm, Sizes, Slot, Span, ends, linear, norm


def parts(config: Any) -> tuple[Sizes, dict[str, Any]]:
    """Sizes and the other fields of an Architecture."""
    sizes = Sizes.of(config)
    sizes = replace(sizes, intermediate=config.n_inner or 4 * sizes.hidden, kv_heads=sizes.heads)
    positions = ((Span("positions", config.n_positions),), sizes.axis("stream"))
    table = Slot("transformer.wpe.weight", None, "weight", ("position_embedding",), positions)
    outer = ends(sizes, "transformer.wte", "transformer.ln_f", tied=config.tie_word_embeddings, norm_bias=True)
    slots = [slot for i in range(sizes.blocks) for slot in _block(sizes, i)]
    return sizes, {
        "prefix": "transformer.h.{i}",
        "slots": (*outer, table, *slots),
        "blocks": tuple(Block(i, None, None, _scale(config, sizes, i)) for i in range(sizes.blocks)),
        "norm": Norm("layer", config.layer_norm_epsilon),
        "activation": config.activation_function,
        "gated": False,
    }


def _scale(config: Any, sizes: Sizes, i: int) -> float:
    scale = float(sizes.head_dim**-0.5) if config.scale_attn_weights else 1.0
    return scale / (i + 1) if config.scale_attn_by_inverse_layer_idx else scale


def _block(sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, wide = f"transformer.h.{i}", sizes.axis("stream"), sizes.axis("neurons")
    qkv = sizes.axis("queries") + sizes.axis("keys") + sizes.axis("values")
    attended = sizes.axis("attended")
    return (
        *norm(f"{at}.ln_1", i, "attention_norm", stream, bias=True),
        *linear(f"{at}.attn.c_attn", i, ("q", "k", "v"), (qkv, stream), bias=True, transposed=True),
        *linear(f"{at}.attn.c_proj", i, ("o",), (stream, attended), bias=True, transposed=True),
        *norm(f"{at}.ln_2", i, "mlp_norm", stream, bias=True),
        *linear(f"{at}.mlp.c_fc", i, ("up",), (wide, stream), bias=True, transposed=True),
        *linear(f"{at}.mlp.c_proj", i, ("down",), (stream, wide), bias=True, transposed=True),
    )
