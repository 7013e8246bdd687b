"""GGUF in, a plain Hugging Face folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from truing.core.errors import RunError
from truing.core.lazy import torch
from truing.models.folder import settle


def dequantise(gguf: Path, folder: Path, tokenizer: Literal["smollm2", "gemma3"]) -> None:
    """Write the model of a GGUF file as float32 safetensors with tokenizer, config and generation config.

    float32 holds every dequantised value exactly; bfloat16 would halve the folder and round them again.

    Args:
        gguf: the file.
        folder: an existing folder; files of the same names are overwritten.
        tokenizer: which tokenizer it is; what the loader is known to lose of it is put back.

    Raises:
        RunError: the loader gave a tokenizer or weights that are not those of the file.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    words = AutoTokenizer.from_pretrained(**place)
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    settings = _plain(loaded.config.to_dict())
    kind = transformers.CONFIG_MAPPING[settings.pop("model_type")]
    config = kind(**settings)
    with torch.device("meta"):  # a model that was never quantised, so that transformers agrees to save it
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    (_mend_smollm2 if tokenizer == "smollm2" else _mend_gemma3)(words, config.max_position_embeddings)
    words.save_pretrained(folder)
    settle(folder)
    meant, read = _plain(model.config.to_dict()), _plain(AutoConfig.from_pretrained(folder).to_dict())
    differ = [key for key in meant | read if meant.get(key) != read.get(key)]
    if differ:
        raise RunError(f"the saved config does not read back as it was written: {', '.join(differ)}")


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """A config without traces of the file, and with the decimal that a float32 in it stands for."""
    traces = {"quantization_config", "_name_or_path", "_model_name_or_path", "dtype", "transformers_version"}
    kept = {key: value for key, value in settings.items() if key not in traces}
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in kept.items()}


def _mend_smollm2(words: Any, longest: int) -> None:
    """GGUF names the pre-tokenizer (``smollm``) but the loader builds GPT-2's: digits are not split off first."""
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    words.model_max_length = longest
    pieces = words.convert_ids_to_tokens(words("a  12 b").input_ids)
    if pieces != ["a", "ĠĠ", "1", "2", "Ġb"]:
        raise RunError(f"the tokenizer of the GGUF file reads 'a  12 b' as {pieces}")


def _mend_gemma3(words: Any, longest: int) -> None:
    words.model_max_length = longest
    pieces = words.convert_ids_to_tokens(words("a  12").input_ids)
    if pieces != ["<bos>", "a", "▁▁", "1", "2"]:
        raise RunError(f"the tokenizer of the GGUF file reads 'a  12' as {pieces}")
