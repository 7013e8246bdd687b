"""Exact log-probabilities of trees under a Hugging Face causal language model.

The full logits never exist: hidden states are projected to the vocabulary only where a target is read, in chunks, of
which the backward pass computes all but one again. Sums are in float32 whatever the model's type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.run import Log, Quiet
from truing.core.trees import NO_EXTRAS, Extras, Tree, TreeScores
from truing.engine.attend import routed
from truing.engine.memory import keeping
from truing.engine.precision import autocast
from truing.engine.tree import SHORTEST_TRUNK, Packed, batches, pack, portions
from truing.engine.vocabulary import (
    collisions,
    divergences,
    extrapolated,
    target_collisions,
    target_divergences,
    target_extrapolated,
    target_logprobs,
)

TOLERANCE = {"float32": 1e-3, "float64": 1e-8, "bfloat16": 0.25, "float16": 0.1}


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
    extras: Extras = NO_EXTRAS,
    anchor: Any | None = None,
    shift: torch.Tensor | None = None,
) -> TreeScores:
    """Scores from one packed row: one pass, each prompt once, and one more of the ``anchor`` where there is one.

    Args:
        anchor: another model, which the extras that compare are told from; it gets no gradient.
        shift: ``(P, D)``, added to the embeddings of the prompts' tokens, tree by tree.

    Raises:
        TypeError: the model's attention cannot be told of the layout.
    """
    # A shift is each prompt's own, so no token of two prompts is one.
    packed = pack(trees, SHORTEST_TRUNK if shift is None else None).to(model.device)
    read = states(model, packed, shift)
    tokens = target_logprobs(model, read, packed.targets)
    agree = target_collisions(model, read) if extras.collisions else None
    apart = further = None
    if anchor is not None:
        with torch.no_grad():
            fixed = states(anchor, packed)
        if extras.divergences:
            apart = target_divergences(model, read, anchor, fixed, extras.temperature)
        if extras.extrapolation:
            further = target_extrapolated(model, read, anchor, fixed, packed.targets, extras.extrapolation)
    return TreeScores(tokens, packed.owner, packed.counts, read, agree, apart, further)


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
    extras: Extras = NO_EXTRAS,
    anchor: Any | None = None,
    shift: torch.Tensor | None = None,
) -> TreeScores:
    """Scores from the model's own forward pass, one sequence at a time: what packed is proved against."""

    def told(of: Any, row: Mapping[str, torch.Tensor], start: int) -> torch.Tensor:
        logits: torch.Tensor = of(**row, use_cache=False).logits[0, start - 1 : -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    none = torch.zeros(0, device=model.device)
    pieces, agree, apart, further, counts = [], [none], [none], [none], []
    shifts = None if shift is None else shift.split([len(tree.prompt) for tree in trees])
    for number, tree in enumerate(trees):
        for reply in tree.replies:
            ids = torch.tensor([[*tree.prompt, *reply]], device=model.device)
            row = {"input_ids": ids}
            if shifts is not None:
                places = torch.arange(len(tree.prompt), device=model.device)
                row = {"inputs_embeds": embedded(model, ids, places, shifts[number])}
            logits = told(model, row, len(tree.prompt))
            wanted = ids[0, len(tree.prompt) :]
            pieces.append(logits.gather(-1, wanted[:, None]).squeeze(-1) - logits.logsumexp(-1))
            if extras.collisions:
                agree.append(collisions(logits.detach()))
            if anchor is not None:
                with torch.no_grad():
                    others = told(anchor, {"input_ids": ids}, len(tree.prompt))
                apart.append(divergences(logits, others, extras.temperature))
                further.append(extrapolated(logits.detach(), others, wanted, extras.extrapolation))
            counts.append(len(reply))
    sizes = torch.tensor(counts, dtype=torch.int64, device=model.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=model.device), sizes)
    tokens = torch.cat(pieces) if pieces else torch.zeros(0, device=model.device)
    asked = (extras.collisions, extras.divergences, extras.extrapolation > 0)
    found = [torch.cat(told) if wish else None for told, wish in zip((agree, apart, further), asked, strict=True)]
    return TreeScores(tokens, owner, sizes, None, *found)


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
        extras: Extras = NO_EXTRAS,
        anchor: Any | None = None,
        shift: torch.Tensor | None = None,
    ) -> TreeScores:
        """One pass over some trees, with gradient where gradients are enabled.

        Args:
            anchor: another model, which the extras that compare are told from; it gets no gradient.
            shift: ``(P, D)``, added to the embeddings of the prompts' tokens, tree by tree; the anchor's stay.
        """
        self.prove(trees)
        how = score_packed if self.layout == "packed" else score_plain
        return how(self.model, trees, extras, anchor, shift)

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
