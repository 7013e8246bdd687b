"""Exact log-probabilities of trees under a Hugging Face causal language model.

The full logits never exist: hidden states are projected to the vocabulary only where a target is read, in chunks, of
which the backward pass computes all but one again. Sums are in float32 whatever the model's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.policy import Tree, TreeScores
from truing.core.run import Log, Quiet
from truing.engine.attend import routed
from truing.engine.memory import keeping
from truing.engine.precision import autocast
from truing.engine.tree import SHORTEST_TRUNK, Packed, batches, pack, portions

CHUNK = 512  # targets projected at once: 512 x 49k logits are 100 MB in float32
TOLERANCE = {"float32": 1e-3, "float64": 1e-8, "bfloat16": 0.25, "float16": 0.1}


def project(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states ``(N, D)`` to logits ``(N, V)`` in float32 or better, with what the architecture does to them."""
    return adjust(model, model.get_output_embeddings()(hidden))


def adjust(model: Any, logits: torch.Tensor) -> torch.Tensor:
    """Products with the output embeddings ``(N, V)`` to logits, in float32 or better: scaled or capped by some."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    config = model.config.get_text_config()
    if (divide := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divide
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2 and 3
        logits = torch.tanh(logits / cap) * cap
    return logits


def target_logprobs(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``log p(target | hidden)`` for ``(T, D)`` hidden states and ``(T,)`` targets: ``(T,)``, nats."""

    def chunk(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = project(model, states)
        return logits.gather(-1, wanted[:, None]).squeeze(-1) - logits.logsumexp(-1)

    return _by_chunks(chunk, hidden, targets)


def _by_chunks(chunk: Callable[..., torch.Tensor], hidden: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """What ``chunk`` makes of ``(T, ·)`` tensors, some rows at once: ``(T,)``.

    Of all chunks only the last keeps its logits for the backward pass, which begins with it and lets them go before it
    computes those of the others again: so no more than one chunk's logits ever are there, and short rows compute none
    twice.
    """
    parts = list(zip(hidden.split(CHUNK), other.split(CHUNK), strict=True))
    pieces = [hidden.new_zeros(0)]
    for number, part in enumerate(parts, 1):
        if number < len(parts) and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            pieces.append(checkpoint(chunk, *part, use_reentrant=False))
        else:
            pieces.append(chunk(*part))
    return torch.cat(pieces)


def target_collisions(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """``log sum_v p(v | hidden)^2`` for ``(T, D)`` hidden states: ``(T,)``, nats, without gradient."""
    pieces = [hidden.new_zeros(0)]
    with torch.no_grad():
        for states in hidden.split(CHUNK):
            pieces.append(_collisions(project(model, states)))
    return torch.cat(pieces)


def _collisions(logits: torch.Tensor) -> torch.Tensor:
    return (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)


def target_divergences(model: Any, hidden: torch.Tensor, anchor: Any, fixed: torch.Tensor) -> torch.Tensor:
    """``KL(anchor || model)`` over the vocabulary where ``(T, D)`` hidden states of the two stand: ``(T,)``, nats.

    Its gradient in the model's logits is the model's probabilities less the anchor's. The anchor has none.
    """

    def chunk(states: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = project(anchor, other)
        return _divergences(project(model, states), wanted)

    return _by_chunks(chunk, hidden, fixed)


def _divergences(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    wanted = wanted.log_softmax(-1)
    return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1)


def embedded(model: Any, ids: torch.Tensor, places: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """What the model's blocks see of a row of tokens: their embeddings, shifted at some of them.

    Args:
        ids: ``(1, L)``.
        places: ``(P,)`` int64, which of them are shifted.
        shift: ``(P, D)``, in the unit of the embedding matrix, which some models multiply on the way.

    Returns:
        ``(1, L, D)``.
    """
    embedding = model.get_input_embeddings()
    row = embedding(ids)
    return row.index_add(1, places, (shift * getattr(embedding, "embed_scale", 1.0)).to(row.dtype)[None])


def score_packed(
    model: Any,
    trees: Sequence[Tree],
    *,
    collisions: bool = False,
    anchor: Any | None = None,
    shift: torch.Tensor | None = None,
) -> TreeScores:
    """Scores from one packed row: one pass, each prompt once, and one more of the ``anchor`` where there is one.

    Args:
        shift: ``(P, D)``, added to the embeddings of the prompts' tokens, tree by tree.

    Raises:
        TypeError: the model's attention cannot be told of the layout.
    """
    # A shift is each prompt's own, so no token of two prompts is one.
    packed = pack(trees, SHORTEST_TRUNK if shift is None else None).to(model.device)
    read = states(model, packed, shift)
    tokens = target_logprobs(model, read, packed.targets)
    agree = target_collisions(model, read) if collisions else None
    apart = None
    if anchor is not None:
        with torch.no_grad():
            fixed = states(anchor, packed)
        apart = target_divergences(model, read, anchor, fixed)
    return TreeScores(tokens, packed.owner, packed.counts, read, agree, apart)


def states(model: Any, packed: Packed, shift: torch.Tensor | None = None) -> torch.Tensor:
    """The last hidden states where the row is read, ``(T, D)``: those that targets are predicted from."""
    row: dict[str, torch.Tensor] = {"input_ids": packed.input_ids}
    if shift is not None:
        row = {"inputs_embeds": embedded(model, packed.input_ids, packed.prompts, shift)}
    with routed(model):
        hidden = model.base_model(
            **row, position_ids=packed.position_ids, use_cache=False, trees=packed.layout
        ).last_hidden_state
    read: torch.Tensor = hidden[0].index_select(0, packed.reads)
    return read


def score_plain(
    model: Any,
    trees: Sequence[Tree],
    *,
    collisions: bool = False,
    anchor: Any | None = None,
    shift: torch.Tensor | None = None,
) -> TreeScores:
    """Scores from the model's own forward pass, one sequence at a time: what packed is proved against."""

    def told(of: Any, row: Mapping[str, torch.Tensor], start: int) -> torch.Tensor:
        logits: torch.Tensor = of(**row, use_cache=False).logits[0, start - 1 : -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    none = torch.zeros(0, device=model.device)
    pieces, agree, apart, counts = [], [none], [none], []
    shifts = None if shift is None else shift.split([len(tree.prompt) for tree in trees])
    for number, tree in enumerate(trees):
        for reply in tree.replies:
            ids = torch.tensor([[*tree.prompt, *reply]], device=model.device)
            row = {"input_ids": ids}
            if shifts is not None:
                places = torch.arange(len(tree.prompt), device=model.device)
                row = {"inputs_embeds": embedded(model, ids, places, shifts[number])}
            logits = told(model, row, len(tree.prompt))
            picked = logits.gather(-1, ids[0, len(tree.prompt) :, None]).squeeze(-1)
            pieces.append(picked - logits.logsumexp(-1))
            if collisions:
                agree.append(_collisions(logits.detach()))
            if anchor is not None:
                with torch.no_grad():
                    wanted = told(anchor, {"input_ids": ids}, len(tree.prompt))
                apart.append(_divergences(logits, wanted))
            counts.append(len(reply))
    sizes = torch.tensor(counts, dtype=torch.int64, device=model.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=model.device), sizes)
    tokens = torch.cat(pieces) if pieces else torch.zeros(0, device=model.device)
    gathered = [
        torch.cat(found) if asked else None for found, asked in ((agree, collisions), (apart, anchor is not None))
    ]
    return TreeScores(tokens, owner, sizes, None, *gathered)


@dataclass
class Scorer:
    """Log-probabilities under one model, packed where that is proved to be the same.

    Attributes:
        model: a causal language model of transformers.
        budget: packed tokens a forward pass.
        layout: ``packed`` or ``plain`` once it is decided, on the first real batch.
    """

    model: Any
    budget: int = 4096
    log: Log = field(default_factory=Quiet)
    layout: Literal["packed", "plain"] | None = None

    def __call__(
        self,
        trees: Sequence[Tree],
        collisions: bool = False,
        anchor: Any | None = None,
        shift: torch.Tensor | None = None,
    ) -> TreeScores:
        """One pass over some trees, with gradient where gradients are enabled.

        Args:
            anchor: another model on the same tokens, which scores then tell the KL from; it gets no gradient.
            shift: ``(P, D)``, added to the embeddings of the prompts' tokens, tree by tree; the anchor's stay.
        """
        self.prove(trees)
        how = score_packed if self.layout == "packed" else score_plain
        return how(self.model, trees, collisions=collisions, anchor=anchor, shift=shift)

    def prove(self, trees: Sequence[Tree]) -> None:
        """Compare packed with plain on a few real trees, once; fall back with a warning where they differ."""
        if self.layout is not None or not trees:
            return
        filled = [Tree(tree.prompt, tuple(reply for reply in tree.replies if reply)[:2]) for tree in trees]
        few = sorted((tree for tree in filled if tree.replies), key=lambda tree: tree.size)[:2]
        if not few:
            return  # nothing but empty replies: nothing to tell the layouts apart by
        training = self.model.training
        self.model.eval()
        # In the model's own numbers: under autocast both layouts are rounded, and differ by that.
        with torch.no_grad(), autocast("float32"):
            plain = score_plain(self.model, few).tokens
            try:
                gap = (score_packed(self.model, few).tokens - plain).abs().max().item()
            except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
                gap, why = float("inf"), f"{type(error).__name__}: {error}"
            else:
                why = f"log-probabilities differ by {gap:.2g} nats"
        self.model.train(training)
        if gap <= TOLERANCE.get(str(self.model.dtype).removeprefix("torch."), 0.25):
            self.layout = "packed"
        else:
            self.layout = "plain"
            self.log.say(
                f"warning: {type(self.model).__name__} gives other results in the packed layout ({why}); "
                "going on one sequence at a time, which is slower and as right"
            )

    @keeping()
    def many(self, trees: Sequence[Tree], stage: str = "scoring") -> list[torch.Tensor]:
        """Per-token log-probabilities without gradient: a ``(T_i,)`` tensor on the CPU for each reply, in order."""
        # A prompt that several trees share, as a question rated more than once, is read once.
        groups: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
        total = 0
        for tree in trees:
            for reply in tree.replies:
                groups.setdefault(tree.prompt, {}).setdefault(reply, []).append(total)
                total += 1
        parts, slots = [], []
        for prompt, replies in groups.items():
            whole = Tree(prompt, tuple(replies))
            for members in portions(whole, self.budget):
                parts.append(Tree(prompt, tuple(whole.replies[k] for k in members)))
                slots.append([replies[whole.replies[k]] for k in members])
        self.prove(parts)
        out: list[torch.Tensor] = [torch.zeros(0)] * total
        done = 0
        with torch.no_grad():  # not inference mode, whose tensors no loss could take
            for batch in batches(parts, self.budget):
                scores = self([parts[i] for i in batch])
                pieces = scores.tokens.cpu().split(scores.counts.tolist())
                for places, piece in zip((places for i in batch for places in slots[i]), pieces, strict=True):
                    for place in places:
                        out[place] = piece.clone()
                done += len(batch)
                self.log.progress(stage, done, len(parts))
        return out
