"""A model folder that other versions and programs read as we do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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
