"""From hidden states to the vocabulary: chunk by chunk, so that the full logits never exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truing.core.lazy import torch

CHUNK = 512  # targets projected at once: 512 x 49k logits are 100 MB in float32


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
        return _picked(project(model, states), wanted)

    return _by_chunks(chunk, hidden, targets)


def target_collisions(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """``log sum_v p(v | hidden)^2`` for ``(T, D)`` hidden states: ``(T,)``, nats, without gradient."""
    with torch.no_grad():
        return _by_chunks(lambda states: collisions(project(model, states)), hidden)


def target_divergences(
    model: Any, hidden: torch.Tensor, anchor: Any, fixed: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """``KL(anchor || model)`` over the vocabulary where ``(T, D)`` hidden states of the two stand: ``(T,)``, nats.

    Its gradient in the model's logits is the model's probabilities less the anchor's, by the temperature. The anchor
    has none.
    """

    def chunk(states: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = project(anchor, other)
        return divergences(project(model, states), wanted, temperature)

    return _by_chunks(chunk, hidden, fixed)


def target_extrapolated(
    model: Any, hidden: torch.Tensor, anchor: Any, fixed: torch.Tensor, targets: torch.Tensor, further: float
) -> torch.Tensor:
    """``log p(target)`` under the model's logits moved on from the anchor's: ``(T,)``, nats, without gradient."""

    def chunk(states: torch.Tensor, other: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return extrapolated(project(model, states), project(anchor, other), wanted, further)

    with torch.no_grad():
        return _by_chunks(chunk, hidden, fixed, targets)


def collisions(logits: torch.Tensor) -> torch.Tensor:
    """The log of the chance that two draws agree, for ``(T, V)`` logits: ``(T,)``, nats."""
    return (2 * logits).logsumexp(-1) - 2 * logits.logsumexp(-1)


def divergences(logits: torch.Tensor, others: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """``KL(others || logits)`` for logits ``(T, V)`` of two models, both divided by ``temperature``: ``(T,)``, nats."""
    others = (others / temperature).log_softmax(-1)
    return (others.exp() * (others - (logits / temperature).log_softmax(-1))).sum(-1)


def extrapolated(logits: torch.Tensor, others: torch.Tensor, targets: torch.Tensor, further: float) -> torch.Tensor:
    """``log softmax((1 + further) logits - further others)`` at the targets: ``(T,)``, nats. arXiv:2406.04412.

    Args:
        logits, others: ``(T, V)`` of two models.
        targets: ``(T,)`` int64.
        further: how much further away from the other, in units of the way that lies between them, >= 0.
    """
    return _picked(torch.lerp(others, logits, 1 + further), targets)


def _picked(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, wanted[:, None]).squeeze(-1) - logits.logsumexp(-1)


def _by_chunks(chunk: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """What ``chunk`` makes of ``(T, ·)`` tensors, some rows at once: ``(T,)``.

    Of all chunks only the last keeps its logits for the backward pass, which begins with it and lets them go before it
    computes those of the others again: so no more than one chunk's logits ever are there, and short rows compute none
    twice.
    """
    parts = list(zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True))
    pieces = [tensors[0].new_zeros(0)]
    for number, part in enumerate(parts, 1):
        if number < len(parts) and torch.is_grad_enabled():
            from torch.utils.checkpoint import checkpoint

            pieces.append(checkpoint(chunk, *part, use_reentrant=False))
        else:
            pieces.append(chunk(*part))
    return torch.cat(pieces)
