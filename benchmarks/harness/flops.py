"""Floating-point operations of a training step, counted from what must be computed and not from what is run.

A product of (m, k) and (k, n) matrices is 2 m k n operations. Only real tokens count, what is shared once; attention
counts the keys that a token sees; the vocabulary is projected to where a target is read. Recomputation, padding, masked
scores and everything that is not a matrix product are no useful work and count nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truing.core.trees import Tree
from truing.engine.tree import common


@dataclass(frozen=True)
class Shape:
    """What of a model decides its operations.

    Attributes:
        matrices: (inputs, outputs) of every matrix that a token passes through, the vocabulary's left out.
        layers: blocks with attention.
        attention: query heads times their size.
        hidden, vocabulary: sizes of the last matrix.
    """

    matrices: tuple[tuple[int, int], ...]
    layers: int
    attention: int
    hidden: int
    vocabulary: int

    @property
    def weights(self) -> int:
        """Numbers in the matrices."""
        return sum(inputs * outputs for inputs, outputs in self.matrices)


@dataclass(frozen=True)
class Load:
    """Operations of one forward pass by part; backward is twice as many."""

    linear: int
    attention: int
    projection: int

    @property
    def forward(self) -> int:
        """All of it."""
        return self.linear + self.attention + self.projection

    @property
    def step(self) -> int:
        """Forward and backward."""
        return 3 * self.forward


def shape_of(model: Any) -> Shape:
    """The shape of a causal language model of transformers: its 2-D weights that are no embeddings."""
    import torch

    config, head = model.config.get_text_config(), model.get_output_embeddings()
    found = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if module is head or isinstance(module, torch.nn.Embedding) or not isinstance(weight, torch.Tensor):
            continue
        if weight.ndim == 2:
            rows, columns = weight.shape
            found.append((columns, rows) if isinstance(module, torch.nn.Linear) else (rows, columns))
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers, width = config.num_hidden_layers, config.num_attention_heads * size
    return Shape(tuple(found), layers, width, config.hidden_size, config.vocab_size)


def seen_keys(tree: Tree) -> int:
    """Pairs of a token and a key that it sees: its prompt and its own reply, up to itself."""
    prompt = len(tree.prompt)
    return _triangle(prompt) + sum(len(reply) * prompt + _triangle(len(reply)) for reply in tree.replies)


def forward_load(shape: Shape, *, tokens: int, keys: int, targets: int) -> Load:
    """Operations of a forward pass over ``tokens`` that see ``keys`` pairs in all and predict ``targets``."""
    attention = 4 * shape.layers * shape.attention * keys  # scores, and the mean of the values
    return Load(2 * shape.weights * tokens, attention, 2 * shape.hidden * shape.vocabulary * targets)


def tree_load(shape: Shape, trees: Sequence[Tree]) -> Load:
    """Operations of one forward pass over some trees, which need what all their prompts begin with only once."""
    targets = sum(len(reply) for tree in trees for reply in tree.replies)
    trunk, again = common([tree.prompt for tree in trees]), len(trees) - 1
    tokens = sum(tree.size for tree in trees) - again * trunk
    keys = sum(map(seen_keys, trees)) - again * _triangle(trunk)
    return forward_load(shape, tokens=tokens, keys=keys, targets=targets)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
