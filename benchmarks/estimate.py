"""What training a model takes: memory a device and time a token, by arithmetic from its configuration.

    python benchmarks/estimate.py                           8B and 70B Llama shapes, alone and as shards
    python benchmarks/estimate.py path/to/config.json --devices 4 --peak 4e14 --pass-tokens 8192

Sizes are exact where they are counted (parameters, optimiser, gradients) and follow measured constants where they are
not (activations); what was assumed is named in :class:`Constants`. Nothing is loaded and nothing is timed here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

GB = 1e9


@dataclass(frozen=True)
class Shape:
    """A Llama-like model: grouped attention and a gated MLP, without biases.

    Attributes:
        hidden, intermediate: widths of the residual stream and of the MLP.
        heads, kv_heads, head: query heads, key heads, numbers a head.
        norms: norm vectors a layer, as wide as the residual stream.
        tied: whether the head is the embedding.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool = False
    norms: int = 2

    @staticmethod
    def of(config: Mapping[str, Any], name: str = "model") -> Shape:
        """From the values of a ``config.json``."""
        heads = int(config["num_attention_heads"])
        return Shape(
            name=name,
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate + self.norms * self.hidden

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head where it is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All of them; the last norm is the one that no layer has."""
        return self.layers * self.layer + self.embedding + self.hidden


LLAMA_8B = Shape("Llama 3.1 8B", 4096, 14336, 32, 32, 8, 128, 128256)
LLAMA_70B = Shape("Llama 3.1 70B", 8192, 28672, 80, 64, 8, 128, 128256)


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward pass, a token and layer.

    Attributes:
        hidden, intermediate, query: for each number of the residual stream, of the MLP, of all query heads together.
        key: for each number of all key heads together, in trees of a prompt and two replies half as long: the keys and
            values of the prompt are there once more for the second reply.
    """

    hidden: int
    intermediate: int
    query: int
    key: int


@dataclass(frozen=True)
class Constants:
    """What the arithmetic rests on. Bytes a parameter are those of this engine: float32 weights, gradients, moments.

    Attributes:
        weight, gradient, moments: a policy is loaded in float32, and AdamW keeps two moments.
        base: of the base before training and after it; meanwhile it is at rest, in a file on the disk.
        cast: of the bfloat16 copy of a layer's matrices that autocast keeps for the backward pass.
        plain, half: measured as the storages that autograd keeps in one packed pass of random Llamas (torch 2.13 with
            transformers 5.23 on a processor, in float32 and under autocast to bfloat16); ``tests/test_estimate.py``
            measures them again on other shapes. Attention is the fused kernel that keeps no probabilities.
        ends: bytes for each number of the residual stream before the first layer and after the last; measured likewise.
        chunk: targets projected to the vocabulary at once, as ``truing.engine.vocabulary.CHUNK``.
        logit_copies: float32 tensors as large as a chunk's logits in its backward pass: the logits, their exponentials
            and their gradient. Counted from the formula, not measured.
        utilisation: share of the device's peak that training reaches. Assumed: not measured on an accelerator.
    """

    weight: int = 4
    gradient: int = 4
    moments: int = 8
    base: int = 4
    cast: int = 2
    plain: Kept = Kept(24, 16, 12, 14)
    half: Kept = Kept(26, 8, 6, 7)
    ends: int = 12
    chunk: int = 512
    logit_copies: int = 3
    utilisation: float = 0.4


@dataclass(frozen=True)
class Plan:
    """How it is trained.

    Attributes:
        devices: processes, one a device.
        sharded: FSDP2 rather than a copy a device.
        bf16: compute in bfloat16.
        checkpointing: keep a layer's input and compute the layer again in the backward pass.
        pass_tokens: packed tokens a forward pass of one device, ``tokens_per_batch``.
    """

    devices: int = 1
    sharded: bool = False
    bf16: bool = True
    checkpointing: bool = False
    pass_tokens: int = 2048


def activations(shape: Shape, plan: Plan, constants: Constants) -> float:
    """Bytes kept for the backward pass of one pass on one device, and what its largest chunk of logits needs."""
    kept = constants.half if plan.bf16 else constants.plain
    layer = (
        kept.hidden * shape.hidden
        + kept.intermediate * shape.intermediate
        + kept.query * shape.heads * shape.head
        + kept.key * shape.kv_heads * shape.head
    )
    inputs = 4 * shape.hidden  # of a layer that is computed again; one layer at a time is there in full
    layers = inputs * shape.layers + layer if plan.checkpointing else layer * shape.layers
    logits = constants.logit_copies * 4 * min(constants.chunk, plan.pass_tokens) * shape.vocabulary
    return plan.pass_tokens * (layers + constants.ends * shape.hidden) + logits


def memory(shape: Shape, plan: Plan, constants: Constants) -> dict[str, float]:
    """Bytes of one device while it trains, by what they are for.

    ``gathered`` is what a pass holds whole of shards (two layers, the embedding and the head, and their gradients), or
    what autocast copies.
    """
    n, parts = shape.parameters, plan.devices if plan.sharded else 1
    number = 2 if plan.bf16 else 4
    gathered = 2 * number * (2 * shape.layer + shape.embedding) if plan.sharded else 0.0
    copied = 1 if plan.checkpointing else shape.layers
    cast = constants.cast * copied * shape.layer if plan.bf16 and not plan.sharded else 0
    return {
        "weights": constants.weight * n / parts,
        "moments": constants.moments * n / parts,
        "gradients": constants.gradient * n / parts,
        "gathered": gathered + cast,
        "activations": activations(shape, plan, constants),
    }


def around(shape: Shape, plan: Plan, constants: Constants) -> float:
    """Bytes of one device when training is over: the base and what it has become, and the shards that that came from.

    Before it there are as many, less the shards.
    """
    own = constants.weight * shape.parameters / plan.devices if plan.sharded else 0.0
    return (constants.base + constants.weight) * shape.parameters + own


def token_flops(shape: Shape, plan: Plan, length: int) -> float:
    """Floating-point operations to train on one token at the end of a context of ``length``, the base's pass included.

    Two a parameter forward and four backward, two more where layers are computed again, two for the base; the
    embedding is a look-up. Attention adds twice two a number of all query heads for each of ``length / 2`` keys.
    """
    passes = 1 + 2 + 1 + (1 if plan.checkpointing else 0)
    matrices = shape.parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)
    attention = 2 * 2 * shape.heads * shape.head * shape.layers * length / 2
    return passes * (2 * matrices + attention)


def seconds_per_token(shape: Shape, plan: Plan, constants: Constants, peak: float, length: int) -> float:
    """Seconds a token of all devices together, at ``peak`` operations a second each; communication is not counted."""
    return token_flops(shape, plan, length) / (plan.devices * peak * constants.utilisation)


def table(shape: Shape, plans: Mapping[str, Plan], constants: Constants, peak: float, length: int) -> str:
    """Markdown: one row a plan, gigabytes (1e9 bytes) a device."""
    names = ("weights", "moments", "gradients", "gathered", "activations")
    lines = [
        f"{shape.name}: {shape.parameters / 1e9:.2f}e9 parameters",
        "",
        "| plan | " + " | ".join(names) + " | training | around it | tokens/s |",
        "|---" * (len(names) + 4) + "|",
    ]
    for label, plan in plans.items():
        found = memory(shape, plan, constants)
        speed = 1 / seconds_per_token(shape, plan, constants, peak, length)
        cells = [f"{found[name] / GB:.1f}" for name in names]
        cells += [f"{sum(found.values()) / GB:.0f}", f"{around(shape, plan, constants) / GB:.0f}", f"{speed:.0f}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, help="a model's config.json; 8B and 70B where left out")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--peak", type=float, default=9.89e14, help="operations a second of one device, dense bfloat16")
    parser.add_argument("--pass-tokens", type=int, default=8192)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a prompt with its reply")
    args = parser.parse_args()
    shapes = [LLAMA_8B, LLAMA_70B]
    if args.config is not None:
        shapes = [Shape.of(json.loads(args.config.read_text(encoding="utf-8")), args.config.parent.name)]
    one = Plan(pass_tokens=args.pass_tokens)
    shards = replace(one, devices=args.devices, sharded=True)
    plans = {
        "one device": one,
        "one device, recomputed": replace(one, checkpointing=True),
        f"{args.devices} copies": replace(one, devices=args.devices),
        f"{args.devices} shards": shards,
        f"{args.devices} shards, recomputed": replace(shards, checkpointing=True),
    }
    for shape in shapes:
        print(table(shape, plans, Constants(), args.peak, args.length), end="\n\n")


if __name__ == "__main__":
    main()
