"""A stored model with a LoRA on it: the adapter's product is added when a tensor is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, bad
from truing.core.lazy import torch
from truing.engine.shards import Shards
from truing.engine.tensors import STRETCH, Spec, Tensors

WEIGHTS = "adapter_model.safetensors"
_PART = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|"
    r"lora_magnitude_vector)(?:\.weight)?$"
)


class Adapted(Tensors):
    """The tensors of a model with an adapter of peft's on them, in float32 where it changes them.

    Args:
        own: the model's.
        adapter: a folder that peft wrote. LoRA, rank-stabilised or not, DoRA, with patterns of rank and alpha, on
            linear layers and embeddings; modules that were trained whole replace the model's.

    Raises:
        InputError: it is another kind of adapter, is damaged, or belongs to another model; every fault at once.
    """

    def __init__(self, own: Tensors, adapter: Path) -> None:
        self.own, self.folder = own, adapter
        self.config = _config(adapter)
        if not (adapter / WEIGHTS).exists():
            raise bad(str(adapter), f"holds no {WEIGHTS}", "Save the adapter as safetensors.")
        self.tensors = Shards(adapter, single=WEIGHTS)
        self.parts: dict[str, dict[str, str]] = {}
        self.modules: dict[str, str] = {}
        self.whole: dict[str, str] = {}
        faults = []
        for name in self.tensors:
            found = _PART.match(name)
            module = found["module"] if found else name.removeprefix("base_model.model.").removesuffix(".weight")
            target = self._target(module)
            if target is None:
                mend = "Give the model that the adapter was trained on."
                faults.append(Fault(str(adapter), f"{name} belongs to no tensor of the model", mend))
            elif found:
                self.parts.setdefault(target, {})[found["part"]] = name
                self.modules[target] = module
            else:
                self.whole[target] = name
        faults += [fault for target in self.parts for fault in self._odd(target)]
        if faults:
            raise InputError(*faults)

    def _target(self, module: str) -> str | None:
        wanted = f"{module}.weight"
        if wanted in self.own or module in self.own:
            return wanted if wanted in self.own else module
        alike = [name for name in self.own if wanted.endswith(f".{name}") or name.endswith(f".{wanted}")]
        return alike[0] if len(alike) == 1 else None

    def _odd(self, target: str) -> list[Fault]:
        """Whether an adapter's product has the shape of what it is added to."""
        kinds = self.parts[target]
        down, up = (
            kinds.get("lora_A", kinds.get("lora_embedding_A")),
            kinds.get("lora_B", kinds.get("lora_embedding_B")),
        )
        if down is None or up is None:
            return [Fault(str(self.folder), f"half of the adapter of {target} is missing", "Fetch it again.")]
        made = (self.tensors.spec(up).shape[0], self.tensors.spec(down).shape[1])
        shape = self.own.spec(target).shape
        if made == (shape if not self._turned(target) else shape[::-1]):
            return []
        return [Fault(str(self.folder), f"{target} is {shape}, its adapter {made}", "Give the model of the adapter.")]

    def _turned(self, target: str) -> bool:
        return "lora_embedding_A" in self.parts[target] or bool(self.config.get("fan_in_fan_out"))

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def spec(self, name: str) -> Spec:
        own = self.own.spec(name)
        changed = name in self.parts or name in self.whole
        return Spec(own.shape, torch.promote_types(own.dtype, torch.float32)) if changed else own

    def cheap(self, name: str) -> bool:
        return name not in self.parts and name not in self.whole and self.own.cheap(name)

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        if name in self.parts or name in self.whole:
            return self.read(name).flatten()[start:stop]
        return self.own.stretch(name, start, stop)

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        if name in self.parts or name in self.whole:
            yield from ((at * STRETCH, part) for at, part in enumerate(self.read(name).flatten().split(STRETCH)))
        else:
            yield from self.own.pieces(name)

    def cost(self, name: str) -> int:
        return 3 * self.spec(name).size

    def read(self, name: str) -> torch.Tensor:
        dtype = self.spec(name).dtype
        if name in self.whole:
            return self.tensors.read(self.whole[name]).to(dtype)
        own = self.own.read(name)
        if name not in self.parts:
            return own
        parts = {kind: self.tensors.read(part).to(dtype) for kind, part in self.parts[name].items()}
        down, up = (parts.get(f"lora_{side}", parts.get(f"lora_embedding_{side}")) for side in "AB")
        product = torch.mm(up, down).mul_(self._scale(name, down.shape[0]))  # type: ignore[arg-type,union-attr] # both are there, checked on opening
        made = own.to(dtype).add_(product.T if self._turned(name) else product)
        if "lora_magnitude_vector" in parts:
            axis = 0 if self._turned(name) else 1
            lengths = made.norm(dim=axis, keepdim=True)
            made.mul_(parts["lora_magnitude_vector"].reshape(lengths.shape) / lengths)
        return made

    def _scale(self, name: str, rank: int) -> float:
        alpha = self.config.get("lora_alpha", rank)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", self.modules[name]):
                alpha = value
                break
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))


def _config(adapter: Path) -> Mapping[str, Any]:
    place = str(adapter / "adapter_config.json")
    try:
        found: Mapping[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise bad(place, f"cannot be read ({error})", "Give a folder that peft wrote.") from error
    if found.get("peft_type") != "LORA":
        raise bad(
            place, f"is of the kind {found.get('peft_type')!r}", "Only LoRA is applied on the fly: merge it first."
        )
    if found.get("bias", "none") != "none":
        raise bad(place, f"trains biases ({found['bias']!r})", "Merge the adapter into its model first.")
    return found


def base_of(adapter: Path) -> str:
    """The model that an adapter says it was trained on.

    Raises:
        InputError: it names none.
    """
    name = _config(adapter).get("base_model_name_or_path")
    if not name:
        raise bad(str(adapter), "is an adapter that names no model", "Write MODEL+ADAPTER.")
    return str(name)
