"""Attention over packed trees: every continuation sees its prompt and itself, and nothing else is computed.

A batch of trees is one row of tokens without padding. What all prompts begin with, the trunk, may stand before them,
once. Each tree costs one causal attention over its prompt and first reply, and one of each further reply over prompt
and reply, so the work grows with the trees and not with the square of the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from truing.core.lazy import F, torch

NAME = "truing_trees"
KINDS = {"full_attention", "sliding_attention"}  # of layers; another kind would need a mask of its own


@dataclass(frozen=True)
class Layout:
    """Where the trees of one row lie.

    Attributes:
        shapes: for each tree in order, tokens of its prompt, after the trunk, and of each reply.
        trunk: tokens at the beginning of the row that belong to every prompt.
    """

    shapes: tuple[tuple[int, tuple[int, ...]], ...]
    trunk: int = 0
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pieces(self) -> list[int]:
        """Lengths that a row is cut into: the trunk; a tree's prompt with its first reply, then each further reply."""
        return [self.trunk, *(n for prompt, replies in self.shapes for n in (prompt + sum(replies[:1]), *replies[1:]))]

    def mask(self, length: int, past: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Which of ``past + length`` keys the last ``length`` tokens see, ``(length, past + length)`` bool."""
        key = (length, past, window)
        if key not in self._masks:
            distance = torch.arange(past, past + length)[:, None] - torch.arange(past + length)[None]
            seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self._masks[key] = seen.to(device)
        return self._masks[key]


@contextmanager
def routed(model: Any) -> Iterator[None]:
    """Within it, the model's attention is that of this module, for calls that pass a layout.

    Raises:
        TypeError: a layer attends in a way that only a mask could tell.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    config = model.config.get_text_config()
    if odd := set(getattr(config, "layer_types", None) or ()) - KINDS:
        raise TypeError(f"layers of kind {sorted(odd)} need their own mask")
    with attending(config, NAME):
        yield


@contextmanager
def attending(config: Any, name: str) -> Iterator[None]:
    """Within it, the models of this configuration attend by the function that transformers knows under ``name``."""
    before = config._attn_implementation
    config._attn_implementation_internal = name
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: ``(1, H, L, D)`` queries to ``(1, L, H, D)`` outputs.

    Raises:
        TypeError: the model does not hand on the layout, or the window of a sliding layer.
    """
    layout: Layout | None = options.get("trees")
    if layout is None:
        raise TypeError("its attention is not told how the row is laid out")
    kinds = getattr(module.config, "layer_types", None)
    window = options.get("sliding_window")
    if kinds and kinds[module.layer_idx] == "sliding_attention" and window is None:
        raise TypeError("a sliding layer does not say how far it sees")
    queries, keys, values = (tensor.split(layout.pieces, 2) for tensor in (query, key, value))
    outputs = [_attend(layout, queries[0], keys[0], values[0], window, options) if layout.trunk else queries[0]]
    for prompt, replies in layout.shapes:
        first = len(outputs)
        seen, content = (_joined(x[0], x[first]) for x in (keys, values))
        outputs.append(_attend(layout, queries[first], seen, content, window, options))
        seen, content = (x[:, :, : layout.trunk + prompt] for x in (seen, content))
        for k in range(first + 1, first + len(replies)):
            if not queries[k].shape[2]:
                outputs.append(queries[k])
                continue
            both = (torch.cat([seen, keys[k]], 2), torch.cat([content, values[k]], 2))
            outputs.append(_attend(layout, queries[k], *both, window, options))
    return torch.cat(outputs, 2).transpose(1, 2), None


def _joined(before: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cat([before, own], 2) if before.shape[2] else own


def _attend(
    layout: Layout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, options: Any
) -> torch.Tensor:
    """Queries ``(1, H, l, D)``, the newest of the keys and values ``(1, Hk, n, D)``: ``(1, H, l, D)``."""
    length, past = query.shape[2], key.shape[2] - query.shape[2]
    if window is not None and window >= key.shape[2]:
        window = None
    scale, cap = options.get("scaling"), options.get("softcap")
    grouped = query.shape[1] != key.shape[1]
    if cap is None and not past and window is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    seen = layout.mask(length, past, window, query.device)
    if cap is None:
        return F.scaled_dot_product_attention(query, key, value, seen, scale=scale, enable_gqa=grouped)
    scores = query.unflatten(1, (key.shape[1], -1)) @ key[:, :, None].transpose(-1, -2)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = (torch.tanh(scores / cap) * cap).masked_fill(~seen, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (weights.to(value.dtype) @ value[:, :, None]).flatten(1, 2)
