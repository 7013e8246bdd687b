"""A model's folder: found, read, copied without its weights, and left as other versions and programs read it too.

transformers is imported only where a tokenizer is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truing.core.errors import bad
from truing.core.files import write_text
from truing.engine.tensors import Tensors

BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*", "origin.json")
"""What of a folder goes along with its weights."""
_NOT = ("*.index.json", "adapter_config.json", "mergekit_config.yml", "trainer_state.json", "merge.json")
_TYPES = ("dtype", "torch_dtype")


def find_folder(name: str, *, revision: str | None = None) -> Path:
    """Where a model lies on this machine; one of the Hub is fetched, its safetensors and small files only.

    Raises:
        InputError: there is no such model.
    """
    from truing.models import where

    if Path(where(name)).is_dir():
        return Path(where(name))
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise bad(f"model {name!r}", "is no folder", "Give a folder, a Hub name, or 'smollm2'.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["*.safetensors", *BESIDE[:4]]))
    except (LocalEntryNotFoundError, HfHubHTTPError, ValueError, OSError) as error:
        fact = f"is no folder, and cannot be had from the Hub ({str(error).strip().splitlines()[0]})"
        raise bad(f"model {name!r}", fact, "Give a folder, or a Hub name that can be reached.") from error


def read_config(folder: Path) -> dict[str, Any]:
    """A model's ``config.json``.

    Raises:
        InputError: there is none, or it is no JSON object.
    """
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise bad(str(folder), f"has no config.json that can be read ({error})", "Give a model's folder.") from error
    if not isinstance(found, dict):
        raise bad(str(folder / "config.json"), "is no JSON object", "Give a model's folder.")
    return found


def copy_beside(source: Path, folder: Path) -> None:
    """Configuration, tokenizer and licence of a model into another folder, as they are."""
    for pattern in BESIDE:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not any(file.match(other) for other in _NOT):
                shutil.copyfile(file, folder / file.name)


def write_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change values of a folder's ``config.json``; ``dtype`` under whichever name it has there."""
    config = read_config(folder)
    for name, value in changes.items():
        for key in (known for known in _TYPES if known in config) if name == "dtype" else (name,):
            config[key] = value
    if "dtype" in changes and not any(key in config for key in _TYPES):
        config["torch_dtype"] = changes["dtype"]
    write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def common_type(tensors: Tensors) -> str:
    """The floating type that most numbers have, as configurations name it."""
    counts: dict[str, int] = {}
    for name in tensors:
        spec = tensors.spec(name)
        if spec.dtype.is_floating_point:
            kind = str(spec.dtype).removeprefix("torch.")
            counts[kind] = counts.get(kind, 0) + spec.count
    return max(counts, key=lambda kind: counts[kind], default="float32")


def load_tokenizer(name: str, **options: Any) -> Any:
    """A tokenizer as its ``tokenizer.json`` says.

    transformers 5 builds the pre-tokenizer of a folder that names ``GPT2Tokenizer`` anew and drops what the file adds
    to GPT-2's, such as splitting digits. Where the two differ, the file is right.
    """
    import transformers
    from transformers.utils import cached_file

    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    file = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if file is None or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer
    written = json.loads(Path(file).read_text(encoding="utf-8")).get("pre_tokenizer")
    if json.loads(tokenizer.backend_tokenizer.to_str()).get("pre_tokenizer") == written:
        return tokenizer
    return transformers.PreTrainedTokenizerFast.from_pretrained(name, **options)


def settle(folder: Path) -> None:
    """Make the folder readable by other versions and programs than the one that wrote it."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "backend"):
        settings.pop(key, None)
    # The class that takes tokenizer.json as it is, under the name that versions 4 and 5 both know.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # where programs older than transformers 5 look for it; they would assume 10000
        config["rope_theta"] = rope["rope_theta"]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)
