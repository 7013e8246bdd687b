"""The models of a merge, opened: their tensors, configurations and vocabularies, and why they cannot be merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError
from truing.engine.shards import Shards
from truing.engine.tensors import Tensors, block
from truing.models.adapted import Adapted, base_of
from truing.models.folder import find_folder, read_config
from truing.pipeline.merging.references import Reference
from truing.pipeline.merging.vocabulary import Vocabulary, read_vocabulary, vocabulary_tensors

HEAD = "lm_head.weight"
_DECIDED = ("rotary_emb.inv_freq",)  # tables that the configuration decides
_SAME = ("model_type", "hidden_size", "n_embd", "num_attention_heads", "n_head", "num_key_value_heads", "head_dim")


@dataclass(frozen=True)
class Model:
    """A model of the merge.

    Attributes:
        name: as the file names it.
        kept: its tensors as they are stored, without an adapter.
        identity: a digest of the files.
    """

    name: str
    folder: Path
    kept: Shards
    tensors: Tensors
    config: Mapping[str, Any]
    vocabulary: Vocabulary | None
    identity: str

    @property
    def blocks(self) -> int:
        """How many blocks its tensors have."""
        return max((number for number in map(block, self.tensors) if number is not None), default=-1) + 1

    @property
    def tied(self) -> bool:
        """Whether its head is its embedding."""
        return bool(self.config.get("tie_word_embeddings"))

    @property
    def embedding(self) -> str | None:
        """The name of its embedding."""
        found = [
            name
            for name in self.tensors
            if block(name) is None and name.endswith(("embed_tokens.weight", "wte.weight"))
        ]
        return found[0] if len(found) == 1 else None

    @property
    def rows(self) -> int:
        """Rows of its embedding; 0 where it has none that is known."""
        return self.tensors.spec(self.embedding).shape[0] if self.embedding else 0

    @property
    def of_vocabulary(self) -> frozenset[str]:
        """Its tensors with a row for each token."""
        return vocabulary_tensors(self.tensors, self.rows) if self.embedding else frozenset()

    def named(self, name: str) -> str:
        """The name under which it has a tensor: a tied head is its embedding."""
        alias = self.embedding if name == HEAD and self.tied else None
        return alias if alias and name not in self.tensors else name


def open_models(references: Sequence[Reference]) -> dict[Reference, Model]:
    """Every model, opened; nothing but headers is read.

    Raises:
        InputError: every fault of every model at once.
    """
    opened: dict[Reference, Model] = {}
    faults: list[Fault] = []
    for reference in references:
        try:
            opened[reference] = open_model(reference)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    return opened


def open_model(reference: Reference) -> Model:
    """One model, with its adapter applied on the fly.

    Raises:
        InputError: it is not there, damaged, or its adapter is not its own.
    """
    lora = find_folder(reference.lora, revision=reference.lora_revision) if reference.lora else None
    folder = find_folder(reference.path, revision=reference.revision)
    if lora is None and (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        folder, lora = find_folder(base_of(folder)), folder
    config = read_config(folder)
    kept = Shards(folder)
    tensors: Tensors = kept
    identity = kept.identity
    if lora is not None:
        adapted = Adapted(kept, lora)
        tensors, identity = adapted, f"{identity}+{adapted.tensors.identity}"
    return Model(str(reference), folder, kept, tensors, config, read_vocabulary(folder), identity)


def unlike(first: Model, other: Model) -> list[Fault]:
    """Where another model's architecture differs from the first's."""
    odd = [key for key in _SAME if first.config.get(key) != other.config.get(key)]
    if not odd:
        return []
    told = ", ".join(f"{key} {other.config.get(key)!r} instead of {first.config.get(key)!r}" for key in odd)
    return [
        Fault(other.name, f"is of another architecture than {first.name}: {told}", "Merge models of one architecture.")
    ]


def surplus(first: Model, other: Model, *, blocks: bool) -> list[Fault]:
    """Tensors that one of two models lacks; of blocks only where both are merged from end to end."""
    ours, theirs = ({name for name in m.tensors if blocks or block(name) is None} for m in (first, other))
    missing = sorted(name for name in ours if other.named(name) not in other.tensors)
    more = sorted(name for name in theirs - ours if not (name == HEAD and other.tied) and not name.endswith(_DECIDED))
    missing = [name for name in missing if not name.endswith(_DECIDED)]
    faults = []
    for names, verb, opposite in ((missing, "lacks", "has"), (more, "has", "lacks")):
        if names:
            fact = f"{verb} {len(names)} tensors that {first.name} {opposite}, {names[0]!r} first"
            faults.append(Fault(other.name, fact, "Merge models of one architecture."))
    return faults
