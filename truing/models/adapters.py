"""What is new while a model is trained: adapters, or some of its parameters; the rest stays where it is.

A bench shares the storage of everything that it does not train with the policy that it was opened from, so that
adapters need no second model in memory, and the model without them, which is the reference, is that policy itself.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, bad, did_you_mean
from truing.core.lazy import torch
from truing.core.policy import Opening
from truing.engine.attend import attending
from truing.models.architecture import describe

ALL = ("all-linear",)  # peft's word for every linear layer but the head
PREFIX = "base_model.model."  # what peft writes before every name


@dataclass(frozen=True)
class Adapter:
    """What was learnt, apart from the model that it was learnt on.

    Attributes:
        config: peft's own; it says where the tensors belong.
        tensors: by the names of peft's files.
    """

    config: Any
    tensors: Mapping[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """A new folder that ``peft.PeftModel.from_pretrained(model, folder)`` reads."""
        from safetensors.torch import save_file

        folder.mkdir()
        told = self.config.to_dict().items()
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in told}
        text = json.dumps({**plain, "inference_mode": True}, indent=2, sort_keys=True)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
        save_file(dict(self.tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        for file in folder.iterdir():
            file.chmod(0o644)


def opened(model: Any, how: Opening, seed: int) -> Any:
    """A model to train: adapters or parameters of its own, everything else on the storage of ``model``.

    Raises:
        InputError: what is to be trained contradicts itself or is not there; every fault at once.
    """
    if faults := how.faults():
        raise InputError(*faults)
    if how.lora_r:
        made = share(model, lambda name: False)
        attach(made, how, seed)
        return made
    if getattr(model, "is_quantized", False):
        raise bad("lora_r", "weights that are held in 4 bits cannot be trained", "Set lora_r, e.g. 16.")
    names = [name for name, _ in model.named_parameters()]
    chosen = {name for name in names for pattern in how.unfrozen_parameters or ("",) if re.search(pattern, name)}
    idle = [p for p in how.unfrozen_parameters if not any(re.search(p, name) for name in names)]
    if idle:
        raise InputError(*(Fault("unfrozen_parameters", f"{p!r} is in no name", did_you_mean(p, names)) for p in idle))
    return share(model, chosen.__contains__)


def share(model: Any, own: Callable[[str], bool]) -> Any:
    """A copy of a model on the same storage, but for parameters whose name is ``own``: those are copied, and trained.

    What is shared is wrapped anew, so that being frozen is said of the copy alone.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if own(name):
            continue
        plain = type(parameter) is torch.nn.Parameter
        memo[id(parameter)] = torch.nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
        if not plain and (state := getattr(parameter, "quant_state", None)) is not None:
            memo[id(state)] = state
    made = copy.deepcopy(model, memo)
    for name, parameter in made.named_parameters():
        if own(name):
            parameter.requires_grad_(True)
    return made


def part(model: Any) -> Any:
    """Give a model that :func:`share` made storage of its own throughout, in place."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.clone()
    return model.requires_grad_(True)


def attach(model: Any, how: Opening, seed: int) -> None:
    """Put adapters into ``model``. It answers as before until they are trained: their second matrix is zero.

    Raises:
        InputError: a target is no projection of this model.
    """
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=how.lora_r,
        lora_alpha=how.lora_alpha,
        use_dora=how.use_dora,
        target_modules=_targets(model, how.lora_target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():  # peft draws the first matrix from the ambient stream
        torch.manual_seed(seed)
        _tuner(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()  # small updates would be rounded away


def _tuner(model: Any, config: Any) -> Any:
    from peft import LoraModel

    try:
        return LoraModel(model, config, "default")
    except (ValueError, TypeError) as error:
        mend = "Name projections, e.g. q_proj; or leave lora_target_modules out."
        raise bad("lora_target_modules", str(error).strip().split("\n")[0], mend) from error


def _targets(model: Any, asked: Sequence[str]) -> list[str] | str:
    """The layers with an adapter, in peft's terms; by default every projection of every block."""
    described = describe(model.config.get_text_config())
    if not asked and described.known:
        inner = (slot for slot in described.slots if slot.block is not None and "router" not in slot.roles)
        blocks = [slot.name for slot in inner if slot.matrix]
        return sorted({name.removesuffix(".weight").rpartition(".")[2] for name in blocks})
    if tuple(asked or ALL) == ALL:
        return ALL[0]
    faults = []
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    modules = dict(model.named_modules())
    for target in asked:
        found = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not found:
            known = {name.rpartition(".")[2] for name, module in modules.items() if hasattr(module, "weight")}
            faults.append(Fault("lora_target_modules", f"no layer is called {target!r}", did_you_mean(target, known)))
        elif any(module is end for module in found for end in ends):
            mend = "Name projections of blocks; embedding and head may be one tensor."
            faults.append(Fault("lora_target_modules", f"{target!r} is the embedding or the head", mend))
    if faults:
        raise InputError(*faults)
    return list(asked)


def learnt(model: Any, base: str | None) -> Adapter:
    """The adapter in a model that :func:`opened` gave; ``base`` is where peft finds the model without it."""
    from peft import get_peft_model_state_dict

    config = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = base
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {PREFIX + name: tensor.detach().cpu().clone() for name, tensor in sorted(found.items())}
    return Adapter(config, tensors)


def merged(model: Any, adapter: Adapter) -> Any:
    """A model of its own with an adapter's changes in its weights; ``model`` is left as it is.

    In a type narrower than float32 the sum is rounded to it, as in every merged model; the adapter is not.
    """
    from peft import set_peft_model_state_dict

    made = copy.deepcopy(model)
    if getattr(made, "is_quantized", False):
        from truing.models.quantised import dequantised

        made = dequantised(made)
    config = copy.copy(adapter.config)
    with torch.random.fork_rng():  # what is drawn here is overwritten, and yet no one's stream may move
        tuner = _tuner(made, config)
    set_peft_model_state_dict(made, dict(adapter.tensors))
    whole = tuner.merge_and_unload()
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(whole).pop(name, None)
    return whole.requires_grad_(True)


def blocks(model: Any) -> list[Any]:
    """The modules that transformers marks as a model's blocks; none where it marks none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputing(model: Any) -> Iterator[None]:
    """Within, a forward pass keeps activations between blocks alone; the backward pass computes the rest again.

    transformers' own switch works only in training mode, where dropout would be on.

    Raises:
        InputError: transformers does not say what the model's blocks are.
    """
    if not (found := blocks(model)):
        fact = f"transformers does not mark the blocks of {type(model).__name__}"
        raise bad("gradient_checkpointing", fact, "Leave it out; a smaller tokens_per_batch saves memory too.")
    for block in found:
        block.forward = _twice(block.forward, model.config.get_text_config())
    try:
        yield
    finally:
        for block in found:
            del block.forward


def _twice(forward: Callable[..., Any], config: Any) -> Callable[..., Any]:
    """A function whose inner results are not kept for the backward pass, which attends as the forward pass did."""

    def run(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        from torch.utils.checkpoint import checkpoint

        now = config._attn_implementation

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), attending(config, now)

        return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, context_fn=contexts, **named)

    return run
