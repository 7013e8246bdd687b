"""Attention for drawing many replies: keys and values that are shared are kept, and read, once.

Three levels. The *trunk* is what all prompts of a call begin with (a system prompt, in-context examples); the
*prefix* is the rest of one prompt, shared by its draws; the *suffix* is what one draw has written. One softmax
runs over the three, so the result is ordinary causal attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from truing.core.lazy import F, torch

NAME = "truing_cascade"
_ACTIVE: list[Cascade] = []


@dataclass
class Level:
    """Keys and values of some rows, layer by layer, in tensors that are made once and grow seldom.

    Attributes:
        rows, length: room for so many rows of so many tokens.
        layers: layer -> keys and values, each ``(rows, Hk, length, D)``, zero where nothing was written.
    """

    rows: int = 0
    length: int = 0
    layers: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def reserve(self, rows: int, length: int) -> None:
        """Have room for as much; what is there is kept."""
        if rows <= self.rows and length <= self.length:
            return
        self.rows, self.length = max(rows, self.rows), max(length, self.length)
        for pair in self.layers.values():
            for i, old in enumerate(pair):
                pair[i] = old.new_zeros(self.rows, old.shape[1], self.length, old.shape[3])
                pair[i][: old.shape[0], :, : old.shape[2]] = old

    def at(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of a layer, made in the likeness of ``(·, Hk, ·, D)`` keys and values at their first use."""
        if layer not in self.layers:
            self.layers[layer] = [x.new_zeros(self.rows, x.shape[1], self.length, x.shape[3]) for x in (key, value)]
        return self.layers[layer]

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy some rows over others."""
        tensors = [tensor for pair in self.layers.values() for tensor in pair]
        if not source or not tensors:
            return
        old, new = (torch.tensor(rows, device=tensors[0].device) for rows in (source, target))
        for tensor in tensors:
            tensor.index_copy_(0, new, tensor.index_select(0, old))


@dataclass
class Cascade:
    """Keys and values by level, and who may read them.

    Attributes:
        trunk: layer -> ``(Hk, L0, D)`` keys and values.
        prefix: a row a prompt, of which ``groups`` are in use and ``longest`` tokens at most.
        bands: those rows in stretches ``(begin, end, length)`` that are read no further than their longest prompt.
        suffix: a row a draw; the first B are in use.
        packed: in a prefill, ``(G, L)`` where each prompt's tokens stand in the one packed row; ``sizes`` how many.
        group: ``(B,)`` the prompt of a row; ``slots`` the most rows of one prompt.
        place: ``(B,)`` a row's place in the grid of prompts times slots; None where it is in that order already.
        ahead: ``(B,)`` tokens of a row's prompt after the trunk; ``step`` tokens that it has written before this one.
        reach: the largest ``step``, and one.
        ragged: whether prompts, and steps, differ in length.
        phase: what the forward pass in progress does.
    """

    phase: str = "trunk"
    trunk: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    prefix: Level = field(default_factory=Level)
    suffix: Level = field(default_factory=Level)
    packed: Any = None
    sizes: list[int] = field(default_factory=list)
    place: Any = None
    ahead: Any = None
    step: Any = None
    groups: int = 0
    slots: int = 0
    longest: int = 0
    bands: list[tuple[int, int, int]] = field(default_factory=list)
    reach: int = 0
    ragged: tuple[bool, bool] = (True, True)
    _masks: dict[tuple[str, int | None], torch.Tensor | None] = field(default_factory=dict)
    _written: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

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
        self.phase, self._masks, self._written = phase, {}, {}
        _ACTIVE.append(self)
        config._attn_implementation_internal = NAME
        try:
            yield
        finally:
            config._attn_implementation_internal = before
            _ACTIVE.pop()

    def blind(self, level: str, window: int | None) -> torch.Tensor | None:
        """True where a key may not be seen, broadcastable to ``(B, 1, 1, keys)``; None where all may be."""
        key = (level, window)
        if key not in self._masks:
            self._masks[key] = self._blind(level, window)
        return self._masks[key]

    def _blind(self, level: str, window: int | None) -> torch.Tensor | None:
        now = (self.ahead + self.step + self.trunk_length)[:, None]  # a row's own position
        if level == "trunk":
            at = torch.arange(self.trunk_length, device=now.device)[None]
            return None if window is None else (now - at >= window)[:, None, None]
        if window is None and not self.ragged[level == "suffix"]:
            return None
        if level == "prefix":
            at = torch.arange(self.longest, device=now.device)[None]
            hidden = at >= self.ahead[:, None]
            far = hidden if window is None else hidden | (now - (at + self.trunk_length) >= window)
            return far[:, None, None]
        at = torch.arange(self.reach, device=now.device)[None]
        hidden = at > self.step[:, None]
        return (hidden if window is None else hidden | (self.step[:, None] - at >= window))[:, None, None]

    def written(self, heads: int, length: int) -> torch.Tensor:
        """Where the new token of every row and head stands in ``(rows, heads, length)``, flat: ``(B * heads,)``."""
        if (heads, length) not in self._written:
            row = torch.arange(len(self.step), device=self.step.device)[:, None] * heads
            head = torch.arange(heads, device=self.step.device)
            self._written[heads, length] = ((row + head) * length + self.step[:, None]).flatten()
        return self._written[heads, length]


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
    """Causal attention of some prompts, packed into one row, over trunk and self; keys and values are kept."""
    rows, length = state.packed.shape
    query, key, value = (
        x[0].index_select(1, state.packed.flatten()).unflatten(1, (rows, length)).transpose(0, 1)
        for x in (query, key, value)
    )
    if state.phase == "trunk":
        state.trunk[layer] = (key[0], value[0])
    else:
        for kept, new in zip(state.prefix.at(layer, key, value), (key, value), strict=True):
            kept[state.groups : state.groups + rows, :, :length] = new
        if layer in state.trunk:
            before, content = state.trunk[layer]
            key = torch.cat([before.expand(rows, -1, -1, -1), key], 2)
            value = torch.cat([content.expand(rows, -1, -1, -1), value], 2)
    out = _causal(query, key, value, scaling, options).transpose(1, 2)  # (G, L, H, D)
    return torch.cat([one[:size] for one, size in zip(out, state.sizes, strict=True)])[None]


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, options: Any) -> torch.Tensor:
    """``(G, H, L, D)``: the queries are the last of the keys. Right padding is masked by causality."""
    length, keys = query.shape[2], key.shape[2]
    window, repeat = options.get("sliding_window"), query.shape[1] // key.shape[1]
    if plain := window is None and keys == length:
        seen = None
    else:
        place = torch.arange(keys, device=query.device)
        distance = place[keys - length :, None] - place[None]
        seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    if options.get("softcap") is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=plain, scale=scaling, enable_gqa=repeat > 1
        )
    if seen is None:
        seen = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril()
    scores = _cap(query.unflatten(1, (-1, repeat)) @ key[:, :, None].transpose(-1, -2) * scaling, options)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32)
    return (weights.to(value.dtype) @ value[:, :, None]).flatten(1, 2)


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
    rows, heads = query.shape[:2]
    kv_heads = key.shape[1]
    repeat, window = heads // kv_heads, options.get("sliding_window")
    kept = state.suffix.at(layer, key, value)
    for old, new in zip(kept, (key, value), strict=True):
        where = state.written(kv_heads, old.shape[2])
        old.flatten(0, 2).index_copy_(0, where, new.reshape(rows * kv_heads, -1))
    keys, values = (x[:rows, :, : state.reach] for x in kept)
    query = query[:, :, 0].unflatten(1, (kv_heads, repeat)) * scaling  # (B, Hk, r, D)
    levels = [("suffix", query @ keys.transpose(-1, -2))]
    if state.trunk_length:
        wide = query.transpose(0, 1).flatten(1, 2) @ state.trunk[layer][0].transpose(-1, -2)
        levels.append(("trunk", wide.unflatten(1, (rows, repeat)).transpose(0, 1)))
    far = state.prefix.layers[layer]
    levels.append(("prefix", _gather(state, _compare(state, _scatter(state, query), far[0]), repeat)))
    parts = []
    for level, scores in levels:
        scores = _cap(scores, options).float()
        hidden = state.blind(level, window)
        parts.append(scores if hidden is None else scores.masked_fill(hidden, float("-inf")))
    weights = torch.cat(parts, -1).softmax(-1).to(value.dtype).split([part.shape[-1] for part in parts], -1)
    out = weights[0] @ values
    out += _gather(state, _mix(state, _scatter(state, weights[-1]), far[1]), repeat)
    if state.trunk_length:
        wide = weights[1].transpose(0, 1).flatten(1, 2) @ state.trunk[layer][1]
        out += wide.unflatten(1, (rows, repeat)).transpose(0, 1)
    return out.flatten(1, 2)[:, None]


def _compare(state: Cascade, grid: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Queries ``(G, Hk, slots * r, D)`` against prompts: ``(G, Hk, slots * r, longest)``, undefined past a band."""
    parts = [grid[a:b] @ keys[a:b, :, :length].transpose(-1, -2) for a, b, length in state.bands]
    if len(parts) == 1:
        return parts[0]
    scores = grid.new_empty(*grid.shape[:3], state.longest)
    for part, (a, b, length) in zip(parts, state.bands, strict=True):
        scores[a:b, :, :, :length] = part
    return scores


def _mix(state: Cascade, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``(G, Hk, slots * r, longest)`` weights over the prompts' values: ``(G, Hk, slots * r, D)``."""
    parts = [weights[a:b, :, :, :length] @ values[a:b, :, :length] for a, b, length in state.bands]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _scatter(state: Cascade, rows: torch.Tensor) -> torch.Tensor:
    """Rows ``(B, Hk, r, X)`` into their prompts' grids ``(G, Hk, slots * r, X)``."""
    grid = rows
    if state.place is not None:
        grid = rows.new_zeros(state.groups * state.slots, *rows.shape[1:]).index_copy_(0, state.place, rows)
    return grid.unflatten(0, (state.groups, state.slots)).transpose(1, 2).flatten(2, 3)


def _gather(state: Cascade, grid: torch.Tensor, repeat: int) -> torch.Tensor:
    """The inverse of :func:`_scatter`."""
    rows = grid.unflatten(2, (state.slots, repeat)).transpose(1, 2).flatten(0, 1)
    return rows if state.place is None else rows.index_select(0, state.place)


def _cap(scores: torch.Tensor, options: Any) -> torch.Tensor:
    cap = options.get("softcap")
    return scores if cap is None else torch.tanh(scores / cap) * cap
