"""The packed layout against its definition, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.core.trees import Tree
from truing.engine.attend import attention
from truing.engine.tree import batches, pack, portions

tokens = st.integers(4, 90)
tree = st.builds(
    lambda prompt, replies: Tree(tuple(prompt), tuple(map(tuple, replies))),
    st.lists(tokens, min_size=1, max_size=9),
    st.lists(st.lists(tokens, max_size=7), min_size=1, max_size=4),
)
forests = st.builds(
    lambda head, trees: [Tree((*head, *one.prompt), one.replies) for one in trees],
    st.lists(tokens, max_size=6),
    st.lists(tree, min_size=1, max_size=7),
)
Cell = tuple[int, int, int]  # (tree, branch, place in its part); branch 0 is the prompt


def trunk_of(trees: Sequence[Tree], shortest: int) -> int:
    """Tokens that all of several prompts begin with, none of them whole."""
    length = 0
    while len(trees) > 1 and len({one.prompt[: length + 1] for one in trees}) == 1:
        if any(len(one.prompt) == length + 1 for one in trees):
            break
        length += 1
    return length if length >= shortest else 0


def cells(trees: Sequence[Tree], shortest: int = 16) -> tuple[list[Cell], dict[Cell, int]]:
    """What lies in each place of a row, and where everything lies; the first tree stands for all in the trunk."""
    trunk = trunk_of(trees, shortest)
    parts = [(i, b, part) for i, one in enumerate(trees) for b, part in enumerate((one.prompt, *one.replies))]
    whole = [(i, b, k) for i, b, part in parts for k in range(len(part))]
    shared = [cell for cell in whole if cell[1] == 0 and cell[2] < trunk]
    row = [*shared[:trunk], *(cell for cell in whole if cell not in set(shared))]
    number = {cell: at for at, cell in enumerate(row)}
    return row, number | {cell: cell[2] for cell in shared}


@settings(max_examples=60)
@given(forests, st.integers(1, 4))
def test_every_token_lies_there_once_under_its_own_number(trees: list[Tree], shortest: int) -> None:
    packed = pack(trees, shortest)
    where, _ = cells(trees, shortest)
    assert packed.input_ids.tolist() == [[(trees[i].prompt, *trees[i].replies)[b][k] for i, b, k in where]]
    assert packed.position_ids.tolist() == [[k + (len(trees[i].prompt) if b else 0) for i, b, k in where]]
    assert sum(packed.layout.pieces) == len(where)


@settings(max_examples=60)
@given(forests, st.integers(1, 4), st.none() | st.integers(1, 8), st.none() | st.floats(0.5, 3))
def test_a_token_sees_its_ancestors_and_nothing_else(
    trees: list[Tree], shortest: int, window: int | None, cap: float | None
) -> None:
    """Attention by its definition: one softmax over the path from the root; a window counts along it."""
    torch.manual_seed(len(trees))
    (where, number), layout = cells(trees, shortest), pack(trees, shortest).layout
    query = torch.randn(1, 4, len(where), 3, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, len(where), 3, dtype=torch.float64)
    options = {"trees": layout, "sliding_window": window, "softcap": cap, "scaling": 0.7}
    found, _ = attention(SimpleNamespace(config=SimpleNamespace()), query, key, value, None, **options)
    for (i, b, k), at in number.items():
        path = [(i, 0, j) for j in range(len(trees[i].prompt))] if b else [(i, 0, j) for j in range(k + 1)]
        path += [(i, b, j) for j in range(k + 1)] if b else []
        seen = [number[cell] for cell in path[-window if window else 0 :]]
        for head in range(4):
            scores = 0.7 * key[0, head // 2, seen] @ query[0, head, at]
            scores = scores if cap is None else cap * (scores / cap).tanh()
            torch.testing.assert_close(found[0, at, head], scores.softmax(0) @ value[0, head // 2, seen])


@settings(max_examples=60)
@given(forests, st.integers(1, 4))
def test_a_target_is_read_one_token_before_itself_on_its_path(trees: list[Tree], shortest: int) -> None:
    packed = pack(trees, shortest)
    _, number = cells(trees, shortest)
    wanted, owner, counts = [], [], []
    for i, one in enumerate(trees):
        for b, reply in enumerate(one.replies):
            for k, token in enumerate(reply):
                wanted.append((number[(i, b + 1, k - 1) if k else (i, 0, len(one.prompt) - 1)], token))
                owner.append(len(counts))
            counts.append(len(reply))
    assert list(zip(packed.reads.tolist(), packed.targets.tolist(), strict=True)) == wanted
    assert packed.owner.tolist() == owner
    assert packed.counts.tolist() == counts


@settings(max_examples=80)
@given(forests, st.integers(1, 120))
def test_batches_cover_every_tree_in_order_within_the_budget(trees: list[Tree], budget: int) -> None:
    parts = list(batches(trees, budget))
    assert [i for part in parts for i in part] == list(range(len(trees)))
    for part in parts:
        assert sum(trees[i].size for i in part) <= budget or len(part) == 1
    for left, right in pairwise(parts):  # no batch begins in vain
        assert sum(trees[i].size for i in (*left, right[0])) > budget


def test_what_prompts_begin_with_is_laid_down_once() -> None:
    trees = [Tree((1, 2, 3, 9), ((5,),)), Tree((1, 2, 3), ((6, 7), (8,))), Tree((1, 2, 4), ((5,),))]
    assert pack(trees, 1).input_ids.tolist() == [[1, 2, 3, 9, 5, 3, 6, 7, 8, 4, 5]]
    assert pack(trees, 1).layout.trunk == 2
    for shortest in (3, None):
        assert pack(trees, shortest).input_ids.shape == (1, sum(one.size for one in trees))
    assert pack(trees[:1], 1).layout.trunk == 0, "one tree shares nothing"
    assert pack([trees[1]] * 2, 1).layout.trunk == 2, "a prompt's last token, which predicts, stays its own"


def test_a_tree_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack([Tree((), ((5, 6),))])


def test_the_prompt_alone_predicts_the_first_target_of_every_reply() -> None:
    packed = pack([Tree((5, 6, 7), ((8,), (9,), (), (10, 11)))])
    assert packed.reads.tolist() == [2, 2, 2, 5]
    assert packed.targets.tolist() == [8, 9, 10, 11]
    assert packed.counts.tolist() == [1, 1, 0, 2]
    assert torch.equal(packed.position_ids, torch.tensor([[0, 1, 2, 3, 3, 3, 4]]))


@given(tree, st.integers(1, 30))
def test_portions_keep_every_reply_in_order_and_fit_where_one_alone_does(one: Tree, row: int) -> None:
    parts = portions(one, row)
    assert [k for members in parts for k in members] == list(range(len(one.replies)))
    for members in parts:
        size = len(one.prompt) + sum(len(one.replies[k]) for k in members)
        assert size <= row or len(members) == 1 or not any(len(one.replies[k]) for k in members[1:])
    for left, right in pairwise(parts):  # no part begins in vain
        size = len(one.prompt) + sum(len(one.replies[k]) for k in left)
        assert size + len(one.replies[right[0]]) > row
