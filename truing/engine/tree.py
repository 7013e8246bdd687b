"""Trees packed into rows: every prompt once, every continuation once, nothing padded but a row's end.

A row of capacity ``C`` holds several trees. A token sees its own tree's prompt and its own continuation, up to
itself; its position id counts from the start of its own prompt. So a packed row gives each continuation
exactly the context that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from truing.core.lazy import torch
from truing.core.policy import Tree


@dataclass(frozen=True)
class Packed:
    """Some trees as ``R`` rows of ``C`` tokens.

    Attributes:
        input_ids, position_ids: ``(R, C)`` int64.
        tree, branch: ``(R, C)`` int64; the tree of a token (-1 is padding) and its continuation (0 is the prompt).
        reads: ``(T,)`` int64, where in the flattened ``(R * C)`` hidden states a target is predicted.
        targets: ``(T,)`` int64, the token predicted there.
        owner: ``(T,)`` int64, the number of its reply, counted over all trees in order.
        counts: ``(S,)`` int64, tokens of each reply.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    reads: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    counts: torch.Tensor

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        return Packed(**{name: value.to(device) for name, value in vars(self).items()})

    def mask(self, window: int | None = None) -> torch.Tensor:
        """Who sees whom: ``(R, 1, C, C)`` bool, queries before keys; with a sliding window of so many tokens."""
        tree, branch, position = self.tree, self.branch, self.position_ids
        same = tree[:, :, None] == tree[:, None, :]
        line = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
        distance = position[:, :, None] - position[:, None, :]
        seen = same & line & (distance >= 0)
        if window is not None:
            seen &= distance < window
        return seen[:, None]


def fill(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing: indices of ``sizes`` in bins of at most ``capacity``; a larger item gets a bin alone."""
    bins: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        slot = next((b for b, room in enumerate(free) if room >= sizes[i]), None)
        if slot is None:
            bins.append([i])
            free.append(capacity - sizes[i])
        else:
            bins[slot].append(i)
            free[slot] -= sizes[i]
    return bins


def batches(trees: Sequence[Tree], budget: int, row: int = 512) -> Iterator[list[int]]:
    """Indices of trees in batches of at most ``budget`` packed tokens (one larger tree goes alone).

    Trees of like size go together, so that little is padded; results are put back in order by the caller.
    """
    order = sorted(range(len(trees)), key=lambda i: (trees[i].size, i))
    batch: list[int] = []
    for i in order:
        sizes = [trees[k].size for k in [*batch, i]]
        capacity = max(min(row, budget), *sizes)
        if batch and len(fill(sizes, capacity)) * capacity > max(budget, capacity):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pack(trees: Sequence[Tree], row: int = 512) -> Packed:
    """Lay trees out in rows. ``row`` is the least capacity considered; a row is never longer than it must be.

    Raises:
        ValueError: a tree without a prompt token (nothing could predict its first target).
    """
    if any(not tree.prompt for tree in trees):
        raise ValueError("a tree needs at least one prompt token: nothing else can predict the first target")
    rows = fill([tree.size for tree in trees], max([row, *(tree.size for tree in trees)]))
    capacity = max(sum(trees[i].size for i in members) for members in rows)
    firsts = [0]
    for tree in trees:
        firsts.append(firsts[-1] + len(tree.replies))
    ids, positions, owners, branches = (torch.zeros(len(rows), capacity, dtype=torch.int64) for _ in range(4))
    owners -= 1
    reads: list[list[int]] = [[] for _ in range(firsts[-1])]
    for r, members in enumerate(rows):
        at = 0
        for i in members:
            tree, start = trees[i], at
            owners[r, start : start + tree.size] = i
            ids[r, start : start + len(tree.prompt)] = torch.tensor(tree.prompt)
            positions[r, start : start + len(tree.prompt)] = torch.arange(len(tree.prompt))
            at += len(tree.prompt)
            for k, reply in enumerate(tree.replies):
                end = at + len(reply)
                ids[r, at:end] = torch.tensor(reply, dtype=torch.int64)
                positions[r, at:end] = torch.arange(len(tree.prompt), len(tree.prompt) + len(reply))
                branches[r, at:end] = k + 1
                base = r * capacity
                # The first target is read at the prompt's last token, the others one token before themselves.
                reads[firsts[i] + k] = [base + start + len(tree.prompt) - 1, *range(base + at, base + end - 1)]
                reads[firsts[i] + k] = reads[firsts[i] + k][: len(reply)]
                at = end
    counts = torch.tensor([len(reply) for tree in trees for reply in tree.replies], dtype=torch.int64)
    return Packed(
        input_ids=ids,
        position_ids=positions,
        tree=owners,
        branch=branches,
        reads=torch.tensor([i for one in reads for i in one], dtype=torch.int64),
        targets=torch.tensor([t for tree in trees for reply in tree.replies for t in reply], dtype=torch.int64),
        owner=torch.repeat_interleave(torch.arange(len(counts)), counts),
        counts=counts,
    )
