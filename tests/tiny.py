"""Tiny random language models, built here, and a tokenizer whose text does not always give its tokens back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from truing.core.trees import Tree
from truing.models.local import Local

LETTERS = [chr(code) for code in range(32, 127)] + ["\n"]
PIECES = ["th", "the", "in"]  # drawn as single letters, "t" "h" is tokenised as "th" when it is read back
SPECIAL = ["<unk>", "<begin>", "<end>", "<turn>"]
VOCABULARY = len(SPECIAL) + len(LETTERS) + len(PIECES)
TEMPLATE = (
    "{% for message in messages %}<turn>{{ message.role }}\n{{ message.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Letters, three merged pieces and a chat template with an end of turn."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, *PIECES])}
    model = tokenizer_models.BPE(vocabulary, [("t", "h"), ("th", "e"), ("i", "n")], unk_token="<unk>")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<begin>", eos_token="<end>", pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.25,  # wide, so that what a token may see shows in the logits
    "tie_word_embeddings": False,
}
GEMMA = {"head_dim": 8, "tie_word_embeddings": True, "initializer_range": 0.1}
WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_windows": ("Qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 6}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "mistral": ("Mistral", {"sliding_window": 6}),
    "gemma": ("Gemma", GEMMA),
    "gemma2": ("Gemma2", {**GEMMA, **WINDOWS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3Text", {**GEMMA, **WINDOWS, "query_pre_attn_scalar": 4}),
    "gpt2": ("GPT2", {"n_inner": 48, "tie_word_embeddings": True}),
    "phi": ("Phi", {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {"sliding_window": 6}),
}

MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 20}),
    "qwen2_moe": ("Qwen2Moe", {**MIXTURE, "shared_expert_intermediate_size": 12, "mlp_only_layers": [0]}),
    "qwen3_moe": ("Qwen3Moe", {**MIXTURE, "head_dim": 8, "norm_topk_prob": True}),
    "olmoe": ("Olmoe", {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 20}),
}


def make_model(architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A random model of two layers."""
    prefix, own = {**ARCHITECTURES, **MIXTURES}[architecture]
    config = getattr(transformers, f"{prefix}Config")(**{**COMMON, **own, **settings})
    head = "Gemma3ForCausalLM" if prefix == "Gemma3Text" else f"{prefix}LMHeadModel" if prefix == "GPT2" else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, head or f"{prefix}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # biases start at 0, where leaving one out would not show
                torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


def make_local(architecture: str = "llama", *, template: str | None = TEMPLATE, **options: Any) -> Local:
    """A random model with the tiny tokenizer."""
    return Local(make_model(architecture, **options), make_tokenizer(template), name=f"tiny-{architecture}")


def make_exact(architecture: str) -> Local:
    """A model of float64 throughout: the norms that transformers computes in float32 are PyTorch's own here."""
    made = make_local(architecture, dtype=torch.float64)
    for owner in list(made.model.modules()):
        for name, child in owner.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon, dtype=torch.float64)
                norm.load_state_dict(child.state_dict())
                setattr(owner, name, norm)
    return made


def random_trees(seed: int, count: int, *, prompt: int = 14, reply: int = 12, width: int = 3) -> list[Tree]:
    """Trees of random tokens; replies may be empty, prompts may not."""
    source = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(source.randrange(4, VOCABULARY) for _ in range(source.randint(least, most)))

    return [
        Tree(tokens(1, prompt), tuple(tokens(0, reply) for _ in range(source.randint(1, width)))) for _ in range(count)
    ]


class Notes:
    """A log that keeps what it is told; ``stop_at`` raises from the metrics of a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "training" and self.stop_at is not None and done >= self.stop_at:
            raise KeyboardInterrupt

    def metrics(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def series(self, name: str) -> list[float]:
        """One metric, row by row."""
        return [row[name] for row in self.rows if name in row]


def same_weights(left: Any, right: Any) -> bool:
    """Bit for bit."""
    a, b = left.weights(), right.weights()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def words(draws: Sequence[Sequence[Any]]) -> list[list[tuple[int, ...]]]:
    """Only the tokens."""
    return [[draw.token_ids for draw in row] for row in draws]
