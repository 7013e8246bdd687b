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

BALANCE = 4000  # tokens a row; measured for a 135M model on a CPU, and far from critical


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


def arrange(sizes: Sequence[int]) -> list[list[int]]:
    """Rows for trees of these sizes: the layout that costs least.

    A row's linear part grows with its tokens, padding included, and its attention with their square; at about
    ``BALANCE`` tokens the two cost alike.
    """
    total, largest = sum(sizes), max(sizes)
    counts = range(1, min(len(sizes), total // largest + 1) + 1)
    layouts = [fill(sizes, max(largest, -(-total // count))) for count in counts]

    def cost(rows: list[list[int]]) -> float:
        capacity = max(sum(sizes[i] for i in row) for row in rows)
        return len(rows) * capacity * (1 + capacity / BALANCE)

    return min(layouts, key=cost)


def batches(trees: Sequence[Tree], budget: int) -> Iterator[list[int]]:
    """Indices of trees in batches of at most ``budget`` tokens (one larger tree goes alone).

    Trees of like size go together, so that little is padded; results are put back in order by the caller.
    """
    batch: list[int] = []
    for i in sorted(range(len(trees)), key=lambda i: (trees[i].size, i)):
        # The largest so far is the newest: one tree a row is a layout, and a better one takes no more tokens.
        if batch and (len(batch) + 1) * trees[i].size > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def portions(tree: Tree, row: int = 512) -> list[list[int]]:
    """A tree's replies in order, cut so that each part with its prompt fits a row, where a reply alone does.

    Attention grows with the square of a row, and a prompt read twice costs only its own length.
    """
    parts: list[list[int]] = []
    room = 0
    for k, reply in enumerate(tree.replies):
        if not parts or len(reply) > room:
            parts.append([])
            room = row - len(tree.prompt)
        parts[-1].append(k)
        room -= len(reply)
    return parts


def pack(trees: Sequence[Tree], row: int | None = None) -> Packed:
    """Lay trees out in rows: those that cost least, or with ``row`` of so many tokens where no tree is larger.

    Raises:
        ValueError: a tree without a prompt token (nothing could predict its first target).
    """
    if any(not tree.prompt for tree in trees):
        raise ValueError("a tree needs at least one prompt token: nothing else can predict the first target")
    sizes = [tree.size for tree in trees]
    rows = arrange(sizes) if row is None else fill(sizes, max([row, *sizes]))
    capacity = max(sum(sizes[i] for i in members) for members in rows)
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
