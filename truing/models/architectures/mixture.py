"""Mixtures of experts: Mixtral, Qwen2-MoE, Qwen3-MoE and OLMoE. Attention and norms are Llama's."""

from __future__ import annotations

from typing import Any

from truing.models.architectures.layout import Axis, Norm, Sizes, Slot, blocks_of, ends, linear, stacked
from truing.models.architectures.llama import attention, mlp, norms


def parts(config: Any) -> tuple[Sizes, dict[str, Any]]:
    """Sizes and the other fields of an Architecture."""
    sizes = Sizes.of(config)
    slots = [slot for i in range(sizes.blocks) for slot in _block(config, sizes, i)]
    return sizes, {
        "prefix": "model.layers.{i}",
        "slots": (*ends(sizes, "model.embed_tokens", "model.norm", tied=config.tie_word_embeddings), *slots),
        "blocks": blocks_of(config, sizes, windowed=config.model_type in {"mixtral", "qwen3_moe"}),
        "norm": Norm("rms", config.rms_norm_eps),
        "activation": config.hidden_act,
        "qk_norm": config.model_type in {"qwen3_moe", "olmoe"},
    }


def _block(config: Any, sizes: Sizes, i: int) -> tuple[Slot, ...]:
    bias = bool(getattr(config, "attention_bias", False))
    seen: dict[str, tuple[Axis, Axis]] = {
        "qwen3_moe": (sizes.axis("head"), sizes.axis("head")),
        "olmoe": (sizes.axis("queries"), sizes.axis("keys")),  # one norm over all heads together
    }
    turned = seen.get(config.model_type, (None, None))
    inner = _experts(sizes, i) if _sparse(config, i) else mlp(f"model.layers.{i}.mlp", sizes, i)
    qkv_bias = bias or bool(getattr(config, "qkv_bias", False))
    return (*attention(sizes, i, bias=bias, qkv_bias=qkv_bias, norms=turned), *inner, *norms(sizes, i))


def _sparse(config: Any, i: int) -> bool:
    """Whether a block has experts; Qwen's may have plain MLPs in between."""
    return i not in (getattr(config, "mlp_only_layers", None) or ()) and not (i + 1) % getattr(
        config, "decoder_sparse_step", 1
    )


def _experts(sizes: Sizes, i: int) -> tuple[Slot, ...]:
    at, stream, many = f"model.layers.{i}.mlp", sizes.axis("stream"), sizes.axis("experts")
    wide, beside = sizes.axis("expert_neurons"), sizes.axis("shared_neurons")
    shared = (
        *linear(f"{at}.shared_expert.gate_proj", i, ("shared_gate",), (beside, stream), bias=False),
        *linear(f"{at}.shared_expert.up_proj", i, ("shared_up",), (beside, stream), bias=False),
        *linear(f"{at}.shared_expert.down_proj", i, ("shared_down",), (stream, beside), bias=False),
        *linear(f"{at}.shared_expert_gate", i, ("shared_switch",), (sizes.axis("switch"), stream), bias=False),
    )
    return (
        *linear(f"{at}.gate", i, ("router",), (many, stream), bias=False),
        *stacked(f"{at}.experts.gate_up_proj", i, ("expert_gate", "expert_up"), many, (wide + wide, stream)),
        *stacked(f"{at}.experts.down_proj", i, ("expert_down",), many, (stream, wide)),
        *(shared if sizes.shared_neurons else ()),
    )
