"""Attention for drawing many replies: keys and values that are shared are kept, and read, once.

Three levels. The *trunk* is what all prompts of a call begin with (a system prompt, in-context examples); the
*prefix* is the rest of one prompt, shared by its draws; the *suffix* is what one draw has written. One softmax
runs over the three, so the result is ordinary causal attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from truing.core.lazy import torch

NAME = "truing_cascade"
_ACTIVE: list[Cascade] = []


@dataclass
class Cascade:
    """Keys and values by layer, and who may read them.

    Attributes:
        trunk: layer -> ``(Hk, L0, D)`` keys and values.
        prefix: layer -> ``(G, Hk, Lp, D)``, right-padded; ``prefix_length`` ``(G,)`` says how much is real.
        suffix: layer -> ``(B, Hk, T, D)``, written in place at ``step`` ``(B,)``.
        group, slot: ``(B,)`` the prompt of a row and its place among that prompt's rows; ``slots`` their most.
        phase: what the forward pass in progress does.
    """

    phase: str = "trunk"
    trunk: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    prefix: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    suffix: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    prefix_length: Any = None
    group: Any = None
    slot: Any = None
    step: Any = None
    slots: int = 0
    longest: int = 0
    room: int = 0
    _masks: dict[tuple[str, int | None], torch.Tensor | None] = field(default_factory=dict)

    @property
    def trunk_length(self) -> int:
        """Tokens of the trunk."""
        return next(iter(self.trunk.values()))[0].shape[1] if self.trunk else 0

    @contextmanager
    def running(self, model: Any, phase: str) -> Iterator[None]:
        """Route the model's attention through this state for one forward pass."""
        from transformers import AttentionInterface

        AttentionInterface.register(NAME, attention)
        config = model.config.get_text_config()
        before = config._attn_implementation
        self.phase, self._masks = phase, {}
        _ACTIVE.append(self)
        config._attn_implementation_internal = NAME
        try:
            yield
        finally:
            config._attn_implementation_internal = before
            _ACTIVE.pop()

    def keep(self, rows: torch.Tensor, groups: torch.Tensor) -> None:
        """Only these rows, and these prompts."""
        self.suffix = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in self.suffix.items()}
        self.prefix = {i: (k.index_select(0, groups), v.index_select(0, groups)) for i, (k, v) in self.prefix.items()}
        self.prefix_length = self.prefix_length.index_select(0, groups)

    def blind(self, level: str, window: int | None) -> torch.Tensor | None:
        """True where a key may not be seen, broadcastable to ``(B, 1, 1, keys)``; None where all may be."""
        key = (level, window)
        if key not in self._masks:
            self._masks[key] = self._blind(level, window)
        return self._masks[key]

    def _blind(self, level: str, window: int | None) -> torch.Tensor | None:
        now = (self.prefix_length[self.group] + self.step + self.trunk_length)[:, None]  # a row's own position
        if level == "trunk":
            at = torch.arange(self.trunk_length, device=now.device)[None]
            return None if window is None else (now - at >= window)[:, None, None]
        if level == "prefix":
            at = torch.arange(self.longest, device=now.device)[None]
            hidden = at >= self.prefix_length[self.group][:, None]
            far = hidden if window is None else hidden | (now - (at + self.trunk_length) >= window)
            return far[:, None, None]
        at = torch.arange(int(self.step.max()) + 1, device=now.device)[None]
        hidden = at > self.step[:, None]
        return (hidden if window is None else hidden | (self.step[:, None] - at >= window))[:, None, None]


def attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls: ``(B, H, L, D)`` queries to ``(B, L, H, D)`` outputs."""
    state = _ACTIVE[-1]
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    act = _decode if state.phase == "decode" else _prefill
    return act(state, module.layer_idx, query, key, value, scaling, options), None


def _prefill(
    state: Cascade,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    options: Any,
) -> torch.Tensor:
    """Causal attention over trunk and self; keys and values are kept. Right padding is masked by causality."""
    rows, _, length, _ = query.shape
    if state.phase == "trunk":
        state.trunk[layer] = (key[0], value[0])
    else:
        state.prefix[layer] = (key, value)
        if layer in state.trunk:
            before, content = state.trunk[layer]
            key = torch.cat([before.expand(rows, -1, -1, -1), key], 2)
            value = torch.cat([content.expand(rows, -1, -1, -1), value], 2)
    past = key.shape[2] - length
    distance = torch.arange(length)[:, None] + past - torch.arange(key.shape[2])[None]
    seen = distance >= 0
    if (window := options.get("sliding_window")) is not None:
        seen &= distance < window
    repeat = query.shape[1] // key.shape[1]
    scores = _cap(query.unflatten(1, (-1, repeat)) @ key[:, :, None].transpose(-1, -2) * scaling, options)
    scores = scores.masked_fill(~seen.to(scores.device), float("-inf"))
    out = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value[:, :, None]
    return out.flatten(1, 2).transpose(1, 2)


def _decode(
    state: Cascade,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    options: Any,
) -> torch.Tensor:
    """One new token a row."""
    rows, heads, _, size = query.shape
    kv_heads = key.shape[1]
    repeat, window = heads // kv_heads, options.get("sliding_window")
    if layer not in state.suffix:
        shape = (rows, kv_heads, state.room, size)
        state.suffix[layer] = (key.new_zeros(shape), value.new_zeros((*shape[:3], value.shape[-1])))
    keys, values = state.suffix[layer]
    at = torch.arange(rows, device=query.device)
    keys[at, :, state.step] = key[:, :, 0]
    values[at, :, state.step] = value[:, :, 0]
    query = query[:, :, 0].unflatten(1, (kv_heads, repeat)) * scaling  # (B, Hk, r, D)
    reach = int(state.step.max()) + 1
    levels = [("suffix", query @ keys[:, :, :reach].transpose(-1, -2))]
    if state.trunk_length:
        wide = query.transpose(0, 1).flatten(1, 2) @ state.trunk[layer][0].transpose(-1, -2)
        levels.append(("trunk", wide.unflatten(1, (rows, repeat)).transpose(0, 1)))
    if state.longest:
        grid = _scatter(state, query)  # (G, Hk, slots * r, D)
        near = grid @ state.prefix[layer][0].transpose(-1, -2)
        levels.append(("prefix", _gather(state, near, repeat)))
    parts = []
    for level, scores in levels:
        scores = _cap(scores, options).float()
        hidden = state.blind(level, window)
        parts.append(scores if hidden is None else scores.masked_fill(hidden, float("-inf")))
    weights = torch.cat(parts, -1).softmax(-1).to(value.dtype).split([part.shape[-1] for part in parts], -1)
    out = weights[0] @ values[:, :, :reach]
    for (level, _), share in zip(levels[1:], weights[1:], strict=True):
        if level == "trunk":
            wide = share.transpose(0, 1).flatten(1, 2) @ state.trunk[layer][1]
            out = out + wide.unflatten(1, (rows, repeat)).transpose(0, 1)
        else:
            out = out + _gather(state, _scatter(state, share) @ state.prefix[layer][1], repeat)
    return out.flatten(1, 2)[:, None]


def _scatter(state: Cascade, rows: torch.Tensor) -> torch.Tensor:
    """Rows ``(B, Hk, r, X)`` into their prompts' grids ``(G, Hk, slots * r, X)``."""
    _, kv_heads, repeat, width = rows.shape
    grid = rows.new_zeros(len(state.prefix_length), state.slots, kv_heads, repeat, width)
    grid[state.group, state.slot] = rows
    return grid.transpose(1, 2).flatten(2, 3)


def _gather(state: Cascade, grid: torch.Tensor, repeat: int) -> torch.Tensor:
    """The inverse of :func:`_scatter`."""
    return grid.unflatten(2, (state.slots, repeat)).transpose(1, 2)[state.group, state.slot]


def _cap(scores: torch.Tensor, options: Any) -> torch.Tensor:
    cap = options.get("softcap")
    return scores if cap is None else torch.tanh(scores / cap) * cap
