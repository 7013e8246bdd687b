"""Any causal language model of transformers, with its weights at hand."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from truing.core.errors import bad
from truing.core.files import file_errors
from truing.core.lazy import torch
from truing.core.policy import WHOLE, Chat, Draw, Editable, Opening, Reply, Sampling, Workbench
from truing.core.rng import Rng
from truing.core.run import Log, Quiet
from truing.core.trees import Tree, TreeScores
from truing.engine.draw import Sampler
from truing.engine.rest import ALIGNMENT, at_rest
from truing.engine.score import Scorer
from truing.models import adapters, quantised
from truing.models.experts import load_model, save_model
from truing.models.folder import load_tokenizer, settle
from truing.models.template import Template

ROWS = 192  # draws in progress at once
BUDGET = 4096  # packed tokens a scoring pass
# What decides answers besides tensors; named one by one, so that a new version of transformers changes no fingerprint.
CONFIGURED = (
    "model_type", "hidden_act", "activation_function", "hidden_activation", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "sliding_window",
    "layer_types", "partial_rotary_factor", "query_pre_attn_scalar", "attn_logit_softcapping",
    "final_logit_softcapping", "logit_scale", "logits_scaling", "attention_multiplier", "residual_multiplier",
    "embedding_multiplier", "num_experts_per_tok",
)  # fmt: skip


class Local(Editable):
    """A causal language model and its tokenizer. Never changed: training and merging give new ones.

    Attributes:
        adapter: what training learnt, where it trained an adapter; it is in the weights, and saved beside them.
        anchor: the model that the KL of scores is told from; its own, unless a method distils from another.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model", log: Log | None = None) -> None:
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.template = Template(tokenizer, name)
        self.log: Log = log or Quiet()
        self.origin: str | None = None
        self.adapter: adapters.Adapter | None = None
        self.scorer = Scorer(self.model, BUDGET, self.log)
        self.anchor: Any = self.model

    @cached_property
    def fingerprint(self) -> str:
        sha = hashlib.sha256()
        config = self.model.config.get_text_config()
        shown = {name: getattr(config, name) for name in CONFIGURED if getattr(config, name, None) is not None}
        sha.update(json.dumps([shown, sorted(self._configured_stops)], sort_keys=True, default=str).encode())
        held = self.model.state_dict() if getattr(self.model, "is_quantized", False) else _tensors(self.model)
        for name, tensor in sorted({**held, **dict(self.model.named_buffers())}.items()):
            sha.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        sha.update(self.tokenizer.backend_tokenizer.to_str().encode())
        sha.update(str(getattr(self.tokenizer, "chat_template", "")).encode())
        return sha.hexdigest()

    @property
    def context(self) -> int | None:
        """Most tokens of a sequence, where the model says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply: the template's and the generation config's."""
        return self.template.stop_ids | self._configured_stops

    @property
    def _configured_stops(self) -> frozenset[int]:
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        listed = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in listed if i is not None)

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        from dataclasses import replace

        settings = replace(sampling, stop=(*sampling.stop, *self.template.stop_texts))
        return self.sampler(self.template.prompts(chats), n=n, sampling=settings, rng=rng)

    @cached_property
    def sampler(self) -> Sampler:
        """Proves its layout on the first prompts, once."""
        return Sampler(self.model, self.stop_ids, self._text, ROWS, self.log)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        prompt = self.template.prompts([chat])[0]
        return Tree(prompt, tuple(self.template.replies(replies, bare=[not chat] * len(replies))))

    def encode_many(self, chats: Sequence[Chat], replies: Sequence[Sequence[Reply]]) -> list[Tree]:
        """One tree a chat, tokenised in one call for the prompts and one for the replies."""
        flat = [reply for group in replies for reply in group]
        bare = [not chat for chat, group in zip(chats, replies, strict=True) for _ in group]
        ids = iter(self.template.replies(flat, bare=bare))
        prompts = self.template.prompts(chats)
        return [Tree(p, tuple(next(ids) for _ in group)) for p, group in zip(prompts, replies, strict=True)]

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        # Replies to one chat share its prompt: they become one tree.
        groups: dict[Chat, list[int]] = {}
        for i, chat in enumerate(chats):
            groups.setdefault(chat, []).append(i)
        trees = self.encode_many(list(groups), [[replies[i] for i in members] for members in groups.values()])
        pieces = self.tree_logprobs(trees, self.log)
        out: list[torch.Tensor] = [torch.zeros(0)] * len(chats)
        for i, piece in zip((i for members in groups.values() for i in members), pieces, strict=True):
            out[i] = piece
        return out

    def tree_logprobs(self, trees: Sequence[Tree], log: Log) -> list[torch.Tensor]:
        self.scorer.log = log
        return self.scorer.many(trees)

    def weights(self) -> Mapping[str, torch.Tensor]:
        if getattr(self.model, "is_quantized", False):
            raise bad(
                self.name, "its weights are held in 4 bits", "To read or merge them, load it without load_in_4bit."
            )
        return _tensors(self.model)

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Local:
        made = copy.deepcopy(self.model)
        own = _tensors(made)
        odd = sorted(own.keys() ^ weights.keys())[:3]
        odd = odd or [name for name in own if own[name].shape != weights[name].shape][:3]
        if odd:
            raise bad(self.name, f"weights do not fit: see {odd}", "Give every tensor of weights(), in its shape.")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(weights[name])
        return Local(made, self.tokenizer, name=self.name, log=self.log)

    def at_rest(self, folder: Path) -> AbstractContextManager[None]:
        return at_rest(self.model.parameters(), folder)

    def open(self, how: Opening = WHOLE, seed: int = 0) -> Workbench:
        return _Bench(self, how, seed)

    def save(self, folder: Path) -> None:
        with _quiet_saving():
            save_model(self.model, folder)
        self.tokenizer.save_pretrained(folder)
        settle(folder)
        if self.adapter is not None:
            self.adapter.save(folder / "adapter")


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers that are saved. Tables that the configuration decides (rotary frequencies) are not."""
    saved = model.state_dict().keys()
    buffers = {name: tensor for name, tensor in model.named_buffers() if name in saved}
    return {**dict(model.named_parameters()), **buffers}


class _Bench(Workbench):
    """What is to be trained, on the storage of the original. The layout that was proved for that holds for it."""

    def __init__(self, origin: Local, how: Opening, seed: int) -> None:
        self.origin, self.how = origin, how
        self.module = adapters.opened(origin.model, how, seed)
        self.scorer = Scorer(self.module, origin.scorer.budget, origin.log, origin.scorer.layout)

    @property
    def embeddings(self) -> torch.Tensor:
        model: Any = self.module
        weight: torch.Tensor = model.get_input_embeddings().weight
        return weight.detach()

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        long = sum(tree.size for tree in trees) > self.most_kept and bool(adapters.blocks(self.module))
        with adapters.recomputing(self.module) if self.how.gradient_checkpointing or long else nullcontext():
            anchor = self.origin.anchor if self.extras.compares else None
            return self.scorer(trees, self.extras, anchor, shift)

    def close(self) -> Local:
        self.module.zero_grad(set_to_none=True)
        trained, adapter = sum(p.numel() for p in self.module.parameters() if p.requires_grad), None
        if self.how.lora_r:
            # peft finds the base by the name that transformers has for it; a base that was made here has none.
            adapter = adapters.learnt(self.module, self.origin.model.name_or_path if self.origin.origin else None)
            model = adapters.merged(self.origin.model, adapter)
        else:
            model = adapters.part(self.module)
        made = Local(model, self.origin.tokenizer, name=self.origin.name, log=self.origin.log)
        made.adapter, made.trained_parameters = adapter, trained
        return made


@contextmanager
def _quiet_saving() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def load_local(
    name: str,
    *,
    adapter: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    load_in_4bit: bool = False,
    log: Log | None = None,
) -> Local:
    """A causal language model from a folder or the Hub.

    Args:
        name: a folder or a Hub name; a folder that holds a PEFT adapter names its base itself.
        adapter: a PEFT adapter to apply; it is merged into the weights.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        device: ``auto`` is the GPU where there is one.
        trust_remote_code: run the Python code that the folder brings.
        allow_pickle: read ``.bin`` weights, which can run code when they are opened.
        load_in_4bit: hold the projections of the blocks in 4 bits, as a base for adapters; needs bitsandbytes.

    Raises:
        InputError: no such model, no safetensors, code of its own, or an unreadable adapter.
    """
    folder = Path(name)
    if adapter is None and (folder / "adapter_config.json").exists():
        from peft import PeftConfig

        adapter, name = name, str(PeftConfig.from_pretrained(name).base_model_name_or_path)
    if adapter is not None and load_in_4bit:
        fact = "merged into weights of 4 bits, an adapter would be rounded to them"
        raise bad(f"adapter {adapter!r}", fact, "Save the merged model first, and load that in 4 bits.")
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    try:
        tokenizer = load_tokenizer(name, **options)
        options |= quantised.options(dtype, place) if load_in_4bit else {}
        with _quiet_saving():
            model = load_model(name, dtype=dtype, use_safetensors=None if allow_pickle else True, **options)
    except file_errors(ValueError, ImportError) as error:
        raise bad(f"model {name!r}", str(error).strip().split("\n")[0], _mend(str(error))) from error
    if adapter is not None:
        model = _with_adapter(model, adapter, allow_pickle)
    if getattr(model, "is_quantized", False):
        quantised.settle(model)
    else:
        model = _aligned(model.to(place))
    return Local(model, tokenizer, name=name, log=log)


def _aligned(model: Any) -> Any:
    """Weights where torch itself would have put them.

    A tensor in a safetensors file begins anywhere; kernels treat such a one's edges otherwise, and a model that is
    loaded again would differ from the one that was saved in the last bit.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.data_ptr() % ALIGNMENT:
                tensor.data = tensor.data.clone()
    return model


def _with_adapter(model: Any, adapter: str, allow_pickle: bool) -> Any:
    from peft import PeftModel

    found = {file.name for file in Path(adapter).glob("adapter_model.*")}
    if found and "adapter_model.safetensors" not in found and not allow_pickle:
        fact = f"there are only {sorted(found)}, no safetensors"
        raise bad(f"adapter {adapter!r}", fact, _mend("safetensors"))
    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except file_errors(ValueError, KeyError) as error:
        raise bad(f"adapter {adapter!r}", str(error).strip().split("\n")[0], "Give a PEFT adapter folder.") from error


def _mend(text: str) -> str:
    if "trust_remote_code" in text:
        return "If you have read and trust its code, pass --trust_remote_code."
    if "deserializing" in text:
        return "A file of it is damaged: fetch or save it again."
    if "safetensors" in text:
        return "Only safetensors are read; if you trust the file, pass --allow_pickle."
    return "Give a folder with config.json and safetensors, a Hub name, or 'smollm2'."
