"""A model that stays on the disk: its weights are read when somebody asks for them, and no model is built to merge it.

transformers is imported only where such a model is asked something or trained.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truing.core.errors import bad
from truing.core.files import write_text
from truing.core.lazy import torch
from truing.core.policy import WHOLE, Chat, Draw, Editable, Opening, Reply, Sampling, Workbench
from truing.core.rng import Rng
from truing.core.run import Log, Quiet
from truing.core.trees import Tree
from truing.engine.shards import Shards
from truing.engine.stream import gather, write
from truing.engine.tensors import Tensors, as_tensors

if TYPE_CHECKING:
    from truing.models.local import Local

BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*", "origin.json")
"""What of a folder goes along with its weights."""
_NOT = ("*.index.json", "adapter_config.json", "mergekit_config.yml", "trainer_state.json", "merge.json")
_TYPES = ("dtype", "torch_dtype")


class Stored(Editable):
    """A folder of safetensors, or what was made of one and not written yet.

    Attributes:
        folder: where configuration and tokenizer are.
        tensors: the weights, lazily.
    """

    def __init__(self, folder: Path, tensors: Tensors, *, name: str = "", log: Log | None = None) -> None:
        self.folder, self.tensors, self.name = folder, tensors, name or str(folder)
        self.log: Log = log or Quiet()
        self.origin: str | None = None

    def weights(self) -> Tensors:
        return self.tensors

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Stored:
        """The same model with other weights. A lazy mapping stays one: it is made when this is saved or asked."""
        given = as_tensors(weights)
        odd = sorted(self.tensors.keys() ^ given.keys())[:3]
        odd = odd or [name for name in given if given.spec(name).shape != self.tensors.spec(name).shape][:3]
        if odd:
            raise bad(self.name, f"weights do not fit: see {odd}", "Give every tensor of weights(), in its shape.")
        return Stored(self.folder, given, name=self.name, log=self.log)

    def save(self, folder: Path) -> None:
        """Stream the weights into a new folder; memory does not grow with the model."""
        copy_beside(self.folder, folder)
        write(self.tensors, folder, self.log)
        write_config(folder, {"dtype": common_type(self.tensors)})

    @cached_property
    def opened(self) -> Local:
        """The model itself, in memory."""
        from truing.models.local import load_local

        model = load_local(str(self.folder), log=self.log)
        return model if isinstance(self.tensors, Shards) else model.with_weights(self._named(model))

    def _named(self, model: Local) -> dict[str, torch.Tensor]:
        made, own = gather(self.tensors, self.log), model.weights()
        odd = sorted(own.keys() - made.keys())
        if odd:
            fact = f"transformers calls its tensors otherwise in memory ({odd[0]!r} is in no file)"
            raise bad(self.name, fact, "Save it, and load what was saved.")
        return {name: made[name] for name in own}

    @property
    def fingerprint(self) -> str:
        return self.opened.fingerprint

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        return self.opened.sample(chats, n=n, sampling=sampling, rng=rng)

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        return self.opened.token_logprobs(chats, replies)

    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        return self.opened.encode(chat, replies)

    def open(self, how: Opening = WHOLE, seed: int = 0) -> Workbench:
        return self.opened.open(how, seed)


def open_stored(name: str, *, log: Log | None = None) -> Stored:
    """A model on the disk, by folder, embedded name or Hub name.

    Raises:
        InputError: there is no such model, it holds no safetensors, or a file of it is damaged.
    """
    folder = find_folder(name)
    made = Stored(folder, Shards(folder), name=name, log=log)
    made.origin = name
    return made


def find_folder(name: str, *, revision: str | None = None) -> Path:
    """Where a model lies on this machine; one of the Hub is fetched, its safetensors and small files only.

    Raises:
        InputError: there is no such model.
    """
    from truing.models import EMBEDDED

    if name in EMBEDDED:
        from truing.models.embedded import resolve_embedded

        return resolve_embedded(name)  # type: ignore[arg-type] # a member of EMBEDDED
    if Path(name).is_dir():
        return Path(name)
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
