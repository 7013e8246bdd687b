"""Gemma 1, 2 and 3 (text): scaled embeddings, norms around one, soft caps, windows."""

from __future__ import annotations

from typing import Any

from truing.models.architectures.layout import Norm, Role, Sizes, Slot, blocks_of, ends, linear, norm

_NORMS: tuple[tuple[str, Role], ...] = (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm"))
_SANDWICH: tuple[tuple[str, Role], ...] = (
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "attention_post_norm"),
    ("pre_feedforward_layernorm", "mlp_norm"),
    ("post_feedforward_layernorm", "mlp_post_norm"),
)


def parts(config: Any) -> tuple[Sizes, dict[str, Any]]:
    """Sizes and the other fields of an Architecture."""
    sizes, first = Sizes.of(config), config.model_type == "gemma"
    slots = [slot for i in range(sizes.blocks) for slot in _block(config, sizes, i)]
    scale = None if first else config.query_pre_attn_scalar**-0.5
    return sizes, {
        "prefix": "model.layers.{i}",
        "slots": (*ends(sizes, "model.embed_tokens", "model.norm", tied=config.tie_word_embeddings), *slots),
        "blocks": blocks_of(config, sizes, scale=scale),
        "norm": Norm("rms", config.rms_norm_eps, 1, "pre" if first else "sandwich"),
        "activation": config.hidden_act if first else config.hidden_activation,
        "embedding_scale": sizes.hidden**0.5,
        "attention_cap": getattr(config, "attn_logit_softcapping", None),
        "logit_cap": getattr(config, "final_logit_softcapping", None),
        "qk_norm": config.model_type == "gemma3_text",
    }


def _block(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, wide = f"model.layers.{i}", sizes.axis("stream"), sizes.axis("neurons")
    bias = bool(config.attention_bias)
    heads = (sizes.axis("head"),) if config.model_type == "gemma3_text" else ()
    norms = _NORMS if config.model_type == "gemma" else _SANDWICH
    return (
        *linear(f"{at}.self_attn.q_proj", i, ("q",), (sizes.axis("queries"), stream), bias=bias),
        *linear(f"{at}.self_attn.k_proj", i, ("k",), (sizes.axis("keys"), stream), bias=bias),
        *linear(f"{at}.self_attn.v_proj", i, ("v",), (sizes.axis("values"), stream), bias=bias),
        *linear(f"{at}.self_attn.o_proj", i, ("o",), (stream, sizes.axis("attended")), bias=bias),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.q_norm", i, "q_norm", axis)),
        *(slot for axis in heads for slot in norm(f"{at}.self_attn.k_norm", i, "k_norm", axis)),
        *linear(f"{at}.mlp.gate_proj", i, ("gate",), (wide, stream), bias=False),
        *linear(f"{at}.mlp.up_proj", i, ("up",), (wide, stream), bias=False),
        *linear(f"{at}.mlp.down_proj", i, ("down",), (stream, wide), bias=False),
        *(slot for name, role in norms for slot in norm(f"{at}.{name}", i, role, stream)),
    )
