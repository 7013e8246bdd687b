"""What a model is made of, described once.

Merging, matching, steering, quantising and probing read this description and never name a tensor themselves.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from truing.core.errors import bad
from truing.models.architectures.layout import Block, Kind, Norm, Role, Sizes, Slot

if TYPE_CHECKING:
    from truing.core.lazy import torch

__all__ = ["Architecture", "Block", "Feature", "Norm", "Role", "Slot", "describe"]

Feature = Literal[
    "sampling", "scoring", "training", "merging", "merging by block", "steering", "matching", "quantising", "packing"
]
"""What somebody may want to do with a model. ``packing`` is training and scoring in the packed layout."""

_PLAIN: frozenset[Feature] = frozenset({"sampling", "scoring", "training", "merging"})

_FAMILIES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "phi3": "llama",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "phi": "phi",
    "mixtral": "mixture",
    "qwen2_moe": "mixture",
    "qwen3_moe": "mixture",
    "olmoe": "mixture",
}
KNOWN = frozenset(_FAMILIES)
"""Model types with a description. SmolLM2 is a ``llama``."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parts of a decoder-only transformer.

    Attributes:
        model_type: transformers' name of it.
        known: whether it is described; if not, only sizes that its config gives are here, and no slots.
        sizes: hidden, intermediate, heads, KV heads, head size, vocabulary, number of blocks.
        prefix: name of block ``i`` as a module, e.g. ``model.layers.{i}``.
        slots: every tensor of the state dict, once.
        blocks: window, rotary positions and attention scale of each block.
        norm: how norms are computed; None where unknown.
        activation: transformers' name of the MLP's non-linearity.
        gated: whether the MLP is ``down(act(gate(x)) * up(x))`` rather than ``down(act(up(x)))``.
        tied: whether the head is the embedding.
        embedding_scale: what embeddings are multiplied by.
        attention_cap, logit_cap: soft caps, ``cap * tanh(x / cap)``, of attention scores and of final logits.
        qk_norm: whether queries and keys are normalised, in each head or (OLMoE) over all heads together.
    """

    model_type: str
    known: bool = True
    sizes: Sizes
    prefix: str = ""
    slots: tuple[Slot, ...] = ()
    blocks: tuple[Block, ...] = ()
    norm: Norm | None = None
    activation: str = ""
    gated: bool = True
    tied: bool = False
    embedding_scale: float = 1.0
    attention_cap: float | None = None
    logit_cap: float | None = None
    qk_norm: bool = False

    @property
    def lacks(self) -> tuple[Feature, ...]:
        """What cannot be done with it for want of a description."""
        return () if self.known else tuple(feature for feature in get_args(Feature) if feature not in _PLAIN)

    @property
    def mixtures(self) -> tuple[int, ...]:
        """The blocks that have experts."""
        return tuple(slot.block for slot in self.slots if slot.block is not None and "router" in slot.roles)

    @property
    def works(self) -> tuple[Feature, ...]:
        """What can be done with it."""
        return tuple(feature for feature in get_args(Feature) if feature not in self.lacks)

    def __str__(self) -> str:
        s = self.sizes
        if not self.known:
            return f"{self.model_type}: no description. Lacks {', '.join(self.lacks)}. Works: {', '.join(self.works)}."
        shape = f"{s.blocks} blocks of {s.heads} heads in {s.kv_heads} groups, {s.intermediate} neurons"
        return f"{self.model_type}: {shape}, stream {s.hidden}, {'tied' if self.tied else 'own'} head"

    def require(self, *features: Feature) -> None:
        """Refuse what the description does not carry.

        Raises:
            InputError: a feature is lacking; it says which, and what works instead.
        """
        missing = [feature for feature in features if feature in self.lacks]
        if missing:
            mend = (
                f"What works: {', '.join(self.works)} (in the plain layout). Described are: {', '.join(sorted(KNOWN))}."
            )
            raise bad(f"architecture {self.model_type!r}", f"no description, so no {' or '.join(missing)}", mend)

    def slot(self, role: Role, block: int | None = None, kind: Kind = "weight") -> Slot | None:
        """The tensor that plays a role, alone or fused with others; None where the model has none."""
        found = (s for s in self.slots if role in s.roles and s.block == block and s.kind == kind)
        return next(found, None)

    def read(
        self, weights: Mapping[str, torch.Tensor], role: Role, block: int | None = None, kind: Kind = "weight"
    ) -> torch.Tensor | None:
        """A role's tensor as a view: ``(out, in)`` for a linear layer however it is stored, ``(out,)`` for a bias.

        An embedding is ``(vocabulary, stream)``, a layer of a mixture ``(experts, out, in)``. None where the model has
        no such tensor.
        """
        slot = self.slot(role, block, kind)
        if slot is None:
            return None
        name = slot.tied_to if slot.tied_to and slot.name not in weights else slot.name
        begin, end = slot.stretch(role)
        view = weights[name].narrow(slot.out, begin, end - begin)
        return view.T if slot.matrix and slot.out == 1 else view

    def mismatches(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
        """Where tensors differ from the description, in words; empty where all fits. A tied head may be absent."""
        own = {slot.name: slot for slot in self.slots}
        said = [f"{name} is not described" for name in shapes if name not in own and not name.endswith("inv_freq")]
        for name, slot in own.items():
            if name not in shapes:
                said += [] if slot.tied_to else [f"{name} is missing"]
            elif tuple(shapes[name]) != slot.shape:
                said.append(f"{name} is {tuple(shapes[name])}, not {slot.shape}")
        return tuple(said)


def describe(config: Any) -> Architecture:
    """The description of a model from its transformers config.

    An architecture that nobody described gives ``known=False``: sampling, and training and scoring in the plain
    layout, still work. See :meth:`Architecture.require`.
    """
    kind = str(getattr(config, "model_type", "") or "unknown")
    if kind not in _FAMILIES or getattr(config, "add_cross_attention", False):
        tied = bool(getattr(config, "tie_word_embeddings", False))
        return Architecture(model_type=kind, known=False, sizes=Sizes.of(config), tied=tied)
    family = importlib.import_module(f"truing.models.architectures.{_FAMILIES[kind]}")
    sizes, parts = family.parts(config)
    return Architecture(model_type=kind, sizes=sizes, tied=bool(config.tie_word_embeddings), **parts)
