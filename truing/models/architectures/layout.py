"""What a description is made of: spaces, slots, norms, rotary positions, blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Space = Literal[
    "vocabulary", "positions", "stream", "queries", "keys", "values", "attended", "neurons", "head",
    "experts", "expert_neurons", "shared_neurons", "switch",
]  # fmt: skip
"""What the numbers along an axis stand for.

``queries`` and ``attended`` (what the output projection reads) are heads x head size; ``keys`` and ``values`` are
KV heads x head size; ``head`` is one head, shared by all (the norm of queries or keys). ``expert_neurons`` are those of
one expert of a mixture, ``shared_neurons`` those of the MLP that all tokens pass beside it, ``switch`` is one number.
"""

Role = Literal[
    "embedding", "position_embedding", "final_norm", "head",
    "q", "k", "v", "o", "gate", "up", "down",
    "attention_norm", "attention_post_norm", "mlp_norm", "mlp_post_norm", "q_norm", "k_norm",
    "router", "expert_gate", "expert_up", "expert_down", "shared_gate", "shared_up", "shared_down", "shared_switch",
]  # fmt: skip
"""What a tensor, or a stretch of a fused one, does. A model without gate has ``up`` and ``down``.

In a mixture of experts the ``router`` scores a token for each expert; the experts' tensors lie behind one another
along a first axis. ``shared_switch`` says how much of the shared MLP is added.
"""

Kind = Literal["weight", "bias"]


@dataclass(frozen=True)
class Span:
    """A stretch of an axis."""

    space: Space
    size: int


Axis = tuple[Span, ...]


@dataclass(frozen=True)
class Slot:
    """One tensor of the state dict.

    Attributes:
        name: in full.
        block: the number of its block, or None outside of them.
        kind: weight or bias.
        roles: one, or several where they are fused: then one for each span of the axis ``out``.
        axes: the spans of every axis, in the order in which they are stored.
        out: the axis of the outputs: 0 in a linear layer, 1 in GPT-2's transposed one and behind the axis of experts.
        tied_to: the slot whose storage it shares; a file then holds the other one alone.
    """

    name: str
    block: int | None
    kind: Kind
    roles: tuple[Role, ...]
    axes: tuple[Axis, ...]
    out: int = 0
    tied_to: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return tuple(sum(span.size for span in axis) for axis in self.axes)

    @property
    def matrix(self) -> bool:
        """Whether it has two axes."""
        return len(self.axes) == 2

    def stretch(self, role: Role) -> tuple[int, int]:
        """Where a role begins and ends along the axis ``out``."""
        if len(self.roles) == 1:
            return 0, self.shape[self.out]
        at = self.roles.index(role)
        begin = sum(span.size for span in self.axes[self.out][:at])
        return begin, begin + self.axes[self.out][at].size


@dataclass(frozen=True)
class Norm:
    """How norms are computed.

    Attributes:
        kind: ``rms`` divides by the root mean square; ``layer`` also centres, and has a bias.
        epsilon: added to the mean square.
        offset: 1 where the stored weight is added to one (Gemma), else 0.
        placement: ``pre`` (before attention and before the MLP), ``sandwich`` (before and after each), or
            ``parallel`` (one before both, which run side by side).
    """

    kind: Literal["rms", "layer"]
    epsilon: float
    offset: Literal[0, 1] = 0
    placement: Literal["pre", "sandwich", "parallel"] = "pre"


@dataclass(frozen=True)
class Rope:
    """Rotary positions. Dimension ``i`` of a head turns together with ``i + dimensions / 2``.

    Attributes:
        theta: base of the frequencies.
        dimensions: of each head that are turned; the others stay.
        kind: transformers' ``rope_type``; anything but ``default`` scales the frequencies.
    """

    theta: float
    dimensions: int
    kind: str = "default"

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Dimensions of a head that turn together."""
        half = self.dimensions // 2
        return tuple((i, i + half) for i in range(half))


@dataclass(frozen=True)
class Block:
    """What may differ between blocks.

    Attributes:
        window: how many tokens back it attends to, or None for all.
        rope: its rotary positions, or None where positions are learned.
        attention_scale: what query-key products are multiplied by.
    """

    index: int
    window: int | None
    rope: Rope | None
    attention_scale: float


@dataclass(frozen=True)
class Sizes:
    """Sizes that every family has; those of a mixture of experts are 0 where there is none."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    blocks: int
    experts: int = 0
    experts_per_token: int = 0
    expert_neurons: int = 0
    shared_neurons: int = 0

    @staticmethod
    def of(config: Any) -> Sizes:
        """From a transformers config; 0 for what it does not say."""
        hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
        experts = _number(config, "num_local_experts") or _number(config, "num_experts")
        inside = _number(config, "moe_intermediate_size") or _number(config, "intermediate_size")
        return Sizes(
            hidden=hidden,
            intermediate=_number(config, "intermediate_size"),
            heads=heads,
            kv_heads=_number(config, "num_key_value_heads") or heads,
            head_dim=_number(config, "head_dim") or (hidden // heads if heads else 0),
            vocabulary=_number(config, "vocab_size"),
            blocks=_number(config, "num_hidden_layers"),
            experts=experts,
            experts_per_token=_number(config, "num_experts_per_tok"),
            expert_neurons=inside if experts else 0,
            shared_neurons=_number(config, "shared_expert_intermediate_size") if experts else 0,
        )

    def axis(self, space: Space) -> Axis:
        """An axis of one span."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes: dict[Space, int] = {
            "vocabulary": self.vocabulary,
            "stream": self.hidden,
            "queries": wide,
            "attended": wide,
            "keys": narrow,
            "values": narrow,
            "neurons": self.intermediate,
            "head": self.head_dim,
            "experts": self.experts,
            "expert_neurons": self.expert_neurons,
            "shared_neurons": self.shared_neurons,
            "switch": 1,
        }
        return (Span(space, sizes[space]),)


def _number(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0


def linear(
    name: str,
    block: int | None,
    roles: tuple[Role, ...],
    axes: tuple[Axis, Axis],
    *,
    bias: bool,
    transposed: bool = False,
) -> tuple[Slot, ...]:
    """The slots of a linear layer from ``axes[1]`` to ``axes[0]``. ``transposed`` stores the input axis first."""
    stored, out = (axes[::-1], 1) if transposed else (axes, 0)
    weight = Slot(f"{name}.weight", block, "weight", roles, stored, out)
    return (weight, Slot(f"{name}.bias", block, "bias", roles, (axes[0],))) if bias else (weight,)


def stacked(name: str, block: int, roles: tuple[Role, ...], experts: Axis, axes: tuple[Axis, Axis]) -> tuple[Slot, ...]:
    """The slot of one layer of every expert of a mixture, from ``axes[1]`` to ``axes[0]``, behind one another."""
    return (Slot(name, block, "weight", roles, (experts, *axes), 1),)


def norm(name: str, block: int | None, role: Role, axis: Axis, *, bias: bool = False) -> tuple[Slot, ...]:
    """The slots of a norm."""
    weight = Slot(f"{name}.weight", block, "weight", (role,), (axis,))
    return (weight, Slot(f"{name}.bias", block, "bias", (role,), (axis,))) if bias else (weight,)


def ends(
    sizes: Sizes, embedding: str, final_norm: str, *, tied: bool, norm_bias: bool = False, head_bias: bool = False
) -> tuple[Slot, ...]:
    """Embedding, final norm and head."""
    axes = (sizes.axis("vocabulary"), sizes.axis("stream"))
    table = Slot(f"{embedding}.weight", None, "weight", ("embedding",), axes)
    head = Slot("lm_head.weight", None, "weight", ("head",), axes, tied_to=table.name if tied else None)
    bias = (Slot("lm_head.bias", None, "bias", ("head",), axes[:1]),) if head_bias else ()
    last = norm(final_norm, None, "final_norm", sizes.axis("stream"), bias=norm_bias)
    return (table, *last, head, *bias)


def blocks_of(config: Any, sizes: Sizes, *, scale: float | None = None, windowed: bool = False) -> tuple[Block, ...]:
    """Window and rotary positions of every block.

    Args:
        scale: of query-key products, by default one over the root of the head size.
        windowed: whether a config without ``layer_types`` means its window for every block.
    """
    kinds = (
        getattr(config, "layer_types", None) or ["sliding_attention" if windowed else "full_attention"] * sizes.blocks
    )
    window = getattr(config, "sliding_window", None)
    shared: Mapping[str, Any] = config.rope_parameters
    made = []
    for index, kind in enumerate(kinds):
        turn = shared.get(kind, shared)
        fraction = float(turn.get("partial_rotary_factor", 1.0))
        rope = Rope(float(turn["rope_theta"]), int(sizes.head_dim * fraction), str(turn.get("rope_type", "default")))
        back = window if kind == "sliding_attention" else None
        made.append(Block(index, back, rope, sizes.head_dim**-0.5 if scale is None else scale))
    return tuple(made)
