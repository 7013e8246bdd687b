"""Models whose projections are held in 4 bits (NF4, arXiv:2305.14314) through bitsandbytes: a base for adapters."""

from __future__ import annotations

from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch


def options(dtype: str, device: torch.device) -> dict[str, Any]:
    """What transformers is told to load a model so.

    Args:
        dtype: what products are computed in, and what everything but the projections is held in.

    Raises:
        InputError: bitsandbytes is not there.
    """
    import transformers

    try:
        import bitsandbytes  # noqa: F401 - what transformers would otherwise miss with a longer message
    except ImportError as error:
        raise bad("load_in_4bit", f"bitsandbytes is not there ({error})", "pip install 'truing[quant]'.") from error
    kind = torch.get_default_dtype() if dtype == "auto" else getattr(torch, dtype)
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind
    )
    return {"quantization_config": config, "device_map": {"": device}}


def settle(model: Any) -> None:
    """Keep bitsandbytes from packing a model's weights anew, in place, at their first use without gradient on a CPU.

    So packed they are multiplied in bfloat16, and no gradient passes them: policy and reference would differ.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantised(model: Any) -> Any:
    """The same model, in place, with what its 4 bits stand for in the type that it computes in."""
    kind = model.config.quantization_config.bnb_4bit_compute_dtype
    made = model.dequantize(dtype=kind)
    for name in ("hf_quantizer", "quantization_method"):
        vars(made).pop(name, None)
    made.is_quantized = False
    made.config.__dict__.pop("quantization_config", None)
    return made
