"""Which units can change places in networks that are no language model: MLPs, residual networks, transformers.

A network is declared by the names of its parts; a helper for each usual shape does so from the weights alone. What has
another shape is declared axis by axis with :func:`declare`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.units.permutations import Axes, Group, Part, PermutationSpec

Weights = Mapping[str, "torch.Tensor"]
Follows = str | tuple[Part, ...] | None
"""What an axis follows: a group by name, nothing, or its parts one by one."""


def declare(
    weights: Weights,
    axes: Mapping[str, Sequence[Follows]],
    *,
    reads: Mapping[str, int | None] | None = None,
    groups: Sequence[Group] = (),
) -> PermutationSpec:
    """A specification from the group that each axis follows.

    Args:
        weights: for the sizes of the axes.
        axes: tensor -> for each of its axes a group, None where it stays, or parts. Axes that are left out at the end
            stay too: the height and width of a kernel. Tensors that are left out are left alone.
        reads: tensor -> the axis by which it reads; by default the second one of two or more.
        groups: those of more than names: with a leader, with signs. The others have as many units as the shortest
            axis that follows them; a longer one has several numbers a unit, as behind a flattened image.

    Raises:
        InputError: a tensor that is not there, or an axis that is no multiple of its group's units.
    """
    known = {group.name: group for group in groups}
    sizes: dict[str, int] = {}
    for name, followed in axes.items():
        if name not in weights or len(followed) > weights[name].ndim:
            raise bad(name, "is declared, and there is no such tensor of so many axes", "Look at the names in weights.")
        for size, group in zip(weights[name].shape, followed, strict=False):
            if isinstance(group, str):
                sizes[group] = min(size, sizes.get(group, size))
    known |= {name: Group(name, size) for name, size in sizes.items() if name not in known}
    made: dict[str, Axes] = {}
    for name, followed in axes.items():
        tensor = weights[name]
        by = (reads or {}).get(name, 1)
        every = [*followed, *[None] * (tensor.ndim - len(followed))]
        made[name] = tuple(
            _parts(name, size, group, known, reads=axis == by)
            for axis, (size, group) in enumerate(zip(tensor.shape, every, strict=True))
        )
    silent = frozenset(name for name in made if name.endswith(("running_mean", "running_var")))
    return PermutationSpec(known, made, silent=silent)


def _parts(name: str, size: int, follows: Follows, groups: Mapping[str, Group], *, reads: bool) -> tuple[Part, ...]:
    if isinstance(follows, tuple):
        return follows
    if follows is not None and size % groups[follows].units:
        fact = f"an axis of {size} numbers follows {follows!r}, which has {groups[follows].units} units"
        raise bad(name, fact, "An axis holds the same number of numbers for every unit.")
    return (Part(size, follows, reads=reads),)


def mlp(weights: Weights, layers: Sequence[str]) -> PermutationSpec:
    """Linear layers (or convolutions) one after another, with any non-linearity that acts on each unit alone.

    Args:
        weights: ``LAYER.weight``, and ``LAYER.bias`` where there is one.
        layers: from the input to the output. Group ``I`` is what layer ``I`` gives; the last one's order stays.
    """
    axes: dict[str, Sequence[Follows]] = {}
    for i, layer in enumerate(layers):
        out, read = (str(i) if i + 1 < len(layers) else None), (str(i - 1) if i else None)
        axes[f"{layer}.weight"] = (out, read)
        if f"{layer}.bias" in weights:
            axes[f"{layer}.bias"] = (out,)
    return declare(weights, axes)


def resnet(weights: Weights) -> PermutationSpec:
    """A residual network under torchvision's names: ``conv1``, ``layerS.B.convK``, ``downsample.0``, ``fc``.

    Basic blocks and bottlenecks. A stage's ``stream`` is one group; a stage whose first block has no ``downsample``
    goes on with the one before it. Every batch norm moves with its convolution, running statistics included.
    """
    axes: dict[str, Sequence[Follows]] = {}

    def layer(conv: str, norm: str, out: str | None, read: str | None) -> None:
        axes[f"{conv}.weight"] = (out, read)
        for name in (f"{conv}.bias", *(f"{norm}.{s}" for s in ("weight", "bias", "running_mean", "running_var"))):
            if name in weights:
                axes[name] = (out,)

    stream = "stream.0"
    layer("conv1", "bn1", stream, None)
    found = {tuple(map(int, m.groups())) for m in (re.match(r"layer(\d+)\.(\d+)\.", name) for name in weights) if m}
    for stage, block in sorted(found):
        at, before = f"layer{stage}.{block}", stream
        if f"{at}.downsample.0.weight" in weights:
            stream = f"stream.{stage}"
            layer(f"{at}.downsample.0", f"{at}.downsample.1", stream, before)
        count = sum(f"{at}.conv{k}.weight" in weights for k in range(1, 4))
        read = before
        for k in range(1, count + 1):
            out = stream if k == count else f"inner.{stage}.{block}.{k}"
            layer(f"{at}.conv{k}", f"{at}.bn{k}", out, read)
            read = out
    layer("fc", "", None, stream)
    return declare(weights, axes)


TORCH_BLOCK: Mapping[str, str] = {
    "qkv_weight": "self_attn.in_proj_weight", "qkv_bias": "self_attn.in_proj_bias", "o": "self_attn.out_proj",
    "up": "linear1", "down": "linear2", "norms": "norm1 norm2",
}  # fmt: skip
"""Names in a block of ``torch.nn.TransformerEncoderLayer``."""
TORCHVISION_BLOCK: Mapping[str, str] = {
    "qkv_weight": "self_attention.in_proj_weight", "qkv_bias": "self_attention.in_proj_bias",
    "o": "self_attention.out_proj", "up": "mlp.0", "down": "mlp.3", "norms": "ln_1 ln_2",
}  # fmt: skip
"""Names in a block of torchvision's ``VisionTransformer``."""


def transformer(
    weights: Weights,
    blocks: Sequence[str],
    heads: int,
    *,
    makes: Sequence[str],
    reads: Sequence[str],
    names: Mapping[str, str] = TORCH_BLOCK,
) -> PermutationSpec:
    """A transformer without rotary positions, layer norms before or after: a ViT, a text encoder.

    Groups are those of a language model (:func:`truing.models.architectures.symmetry.permutations`): ``stream``,
    ``groups.I`` (here the heads), ``keys.I``, ``values.I`` and ``neurons.I``.

    Args:
        blocks: the prefixes of the blocks, e.g. ``encoder.layers.0``.
        heads: of each attention.
        makes: what is outside the blocks and makes the stream: the patch embedding (``conv_proj``), tables and tokens
            whose last axis is the stream, the last norm. Layers by their prefix, tensors by their name.
        reads: layers that read the stream: the classifier.
        names: of the parts of a block.
    """
    axes: dict[str, Sequence[Follows]] = {}
    groups = [Group("stream", _stream(weights, reads))]
    for name in (n for m in makes for n in (m, f"{m}.weight", f"{m}.bias") if n in weights):
        tensor, last = weights[name], weights[name].shape[-1] == groups[0].units
        table = tensor.ndim > 1 and last and name in makes
        axes[name] = (*[None] * (tensor.ndim - 1), "stream") if table else ("stream",)
    for i, at in enumerate(blocks):
        size = weights[f"{at}.{names['qkv_weight']}"].shape[0] // 3
        neurons = weights[f"{at}.{names['up']}.weight"].shape[0]
        leader, keys, values = f"groups.{i}", f"keys.{i}", f"values.{i}"
        groups += [Group(leader, heads), Group(keys, size, leader, signed=True)]
        groups += [Group(values, size, leader, signed=True), Group(f"neurons.{i}", neurons)]
        qkv = (Part(size, leader, keys), Part(size, leader, keys), Part(size, leader, values))
        axes[f"{at}.{names['qkv_weight']}"] = (qkv, "stream")
        axes[f"{at}.{names['qkv_bias']}"] = (qkv,)
        axes[f"{at}.{names['o']}.weight"] = ("stream", (Part(size, leader, values, reads=True),))
        axes[f"{at}.{names['up']}.weight"] = (f"neurons.{i}", "stream")
        axes[f"{at}.{names['down']}.weight"] = ("stream", f"neurons.{i}")
        axes |= {f"{at}.{names['o']}.bias": ("stream",), f"{at}.{names['up']}.bias": (f"neurons.{i}",)}
        axes |= {f"{at}.{names['down']}.bias": ("stream",)}
        axes |= {f"{at}.{norm}.{kind}": ("stream",) for norm in names["norms"].split() for kind in ("weight", "bias")}
    for layer in reads:
        axes[f"{layer}.weight"] = (None, "stream")
    present = {name: followed for name, followed in axes.items() if name in weights}
    tables = {name: None for name, followed in present.items() if name in makes and len(followed) > 1}
    return declare(weights, present, reads=tables, groups=groups)


def _stream(weights: Weights, reads: Sequence[str]) -> int:
    if not reads or f"{reads[0]}.weight" not in weights:
        raise bad("reads", f"there is no layer {list(reads)[:1]}", "Name what reads the stream: the classifier.")
    return int(weights[f"{reads[0]}.weight"].shape[1])


def vit(weights: Weights, heads: int) -> PermutationSpec:
    """torchvision's ``VisionTransformer``, from its names."""
    blocks = sorted({name.split(".self_attention")[0] for name in weights if ".self_attention." in name}, key=_number)
    outside = ("conv_proj", "class_token", "encoder.pos_embedding", "encoder.ln")
    return transformer(weights, blocks, heads, makes=outside, reads=("heads.head",), names=TORCHVISION_BLOCK)


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])
