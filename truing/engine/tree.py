"""Trees packed into one row: every prompt once, every continuation once, nothing padded.

A token sees its own tree's prompt and its own continuation, up to itself; its position id counts from the start of
its own prompt. So a packed row gives each continuation exactly the context that it has alone. What all prompts of a row
begin with, as a system prompt, stands at its beginning, once: the trunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from truing.core.lazy import torch
from truing.core.trees import Tree
from truing.engine.attend import Layout

SHORTEST_TRUNK = 16  # tokens; below that, telling it apart costs more than it saves


@dataclass(frozen=True)
class Packed:
    """Some trees as one row of ``L`` tokens.

    Attributes:
        input_ids, position_ids: ``(1, L)`` int64.
        reads: ``(T,)`` int64, where in the row a target is predicted.
        targets: ``(T,)`` int64, the token predicted there.
        owner: ``(T,)`` int64, the number of its reply, counted over all trees in order.
        counts: ``(S,)`` int64, tokens of each reply.
        layout: where in the row each tree lies.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    reads: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    counts: torch.Tensor
    layout: Layout

    @property
    def prompts(self) -> torch.Tensor:
        """``(P,)`` int64, where in the row the prompts' tokens lie; the trunk's, which are nobody's own, come first."""
        at = self.layout.trunk
        found = list(range(at))
        for prompt, replies in self.layout.shapes:
            found += range(at, at + prompt)
            at += prompt + sum(replies)
        return torch.tensor(found, dtype=torch.int64, device=self.input_ids.device)

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        tensors = {name: value for name, value in vars(self).items() if name != "layout"}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})


def batches(trees: Sequence[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees, in order, in batches of at most ``budget`` tokens (one larger tree goes alone)."""
    batch: list[int] = []
    room = budget
    for i, tree in enumerate(trees):
        if batch and tree.size > room:
            yield batch
            batch, room = [], budget
        batch.append(i)
        room -= tree.size
    if batch:
        yield batch


def portions(tree: Tree, budget: int) -> list[list[int]]:
    """A tree's replies in order, cut so that each part with its prompt keeps to the budget, where one alone does."""
    parts: list[list[int]] = []
    room = 0
    for k, reply in enumerate(tree.replies):
        if not parts or len(reply) > room:
            parts.append([])
            room = budget - len(tree.prompt)
        parts[-1].append(k)
        room -= len(reply)
    return parts


def pack(trees: Sequence[Tree], shortest: int | None = SHORTEST_TRUNK) -> Packed:
    """Lay trees out in one row, one after another.

    Args:
        shortest: what all prompts begin with is laid down once, if it has so many tokens; None lays down each prompt.

    Raises:
        ValueError: a tree without a prompt token (nothing could predict its first target).
    """
    if any(not tree.prompt for tree in trees):
        raise ValueError("a tree needs at least one prompt token: nothing else can predict the first target")
    trunk = 0 if shortest is None else common([tree.prompt for tree in trees], shortest)
    tokens = list(trees[0].prompt[:trunk]) if trunk else []
    positions = list(range(trunk))
    reads: list[int] = []
    for tree in trees:
        prompt = len(tree.prompt)
        tokens += tree.prompt[trunk:]
        positions += range(trunk, prompt)
        last = len(tokens) - 1
        for reply in tree.replies:
            # The first target is read at the prompt's last token, the others one token before themselves.
            reads += [last, *range(len(tokens), len(tokens) + len(reply) - 1)][: len(reply)]
            tokens += reply
            positions += range(prompt, prompt + len(reply))
    counts = torch.tensor([len(reply) for tree in trees for reply in tree.replies], dtype=torch.int64)
    return Packed(
        input_ids=torch.tensor([tokens], dtype=torch.int64),
        position_ids=torch.tensor([positions], dtype=torch.int64),
        reads=torch.tensor(reads, dtype=torch.int64),
        targets=torch.tensor([t for tree in trees for reply in tree.replies for t in reply], dtype=torch.int64),
        owner=torch.repeat_interleave(torch.arange(len(counts)), counts),
        counts=counts,
        layout=Layout(tuple((len(tree.prompt) - trunk, tuple(map(len, tree.replies))) for tree in trees), trunk),
    )


def common(prompts: Sequence[tuple[int, ...]], shortest: int = SHORTEST_TRUNK) -> int:
    """Tokens that all of two or more prompts begin with, if they are ``shortest``; every prompt keeps one token."""
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if low[i] != high[i]), limit)
    return length if length >= shortest else 0
