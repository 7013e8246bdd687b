"""The packed layout against its definition, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.core.policy import Tree
from truing.engine.tree import Packed, arrange, batches, fill, pack, portions

tokens = st.integers(4, 90)
tree = st.builds(
    lambda prompt, replies: Tree(tuple(prompt), tuple(map(tuple, replies))),
    st.lists(tokens, min_size=1, max_size=9),
    st.lists(st.lists(tokens, max_size=7), min_size=1, max_size=4),
)
forests = st.lists(tree, min_size=1, max_size=7)
capacities = st.integers(1, 60)


def cells(packed: Packed, trees: Sequence[Tree]) -> dict[tuple[int, int, int], tuple[int, int]]:
    """Where each token lies: (tree, branch, place in its part) -> (row, column)."""
    found: dict[tuple[int, int, int], tuple[int, int]] = {}
    for row, columns in enumerate(packed.tree.tolist()):
        for column, number in enumerate(columns):
            if number < 0:
                continue
            branch = int(packed.branch[row, column])
            place = int(packed.position_ids[row, column]) - (len(trees[number].prompt) if branch else 0)
            assert (number, branch, place) not in found
            found[number, branch, place] = (row, column)
    return found


@settings(max_examples=60)
@given(forests, capacities)
def test_every_token_lies_there_once_under_its_own_number(trees: list[Tree], row: int) -> None:
    packed = pack(trees, row)
    found = cells(packed, trees)
    wanted = {
        (i, b, k): token
        for i, one in enumerate(trees)
        for b, part in enumerate((one.prompt, *one.replies))
        for k, token in enumerate(part)
    }
    assert {key: int(packed.input_ids[at]) for key, at in found.items()} == wanted
    assert packed.input_ids.shape[1] <= max([row, *(one.size for one in trees)])
    assert (packed.tree >= 0).any(1).all()  # no row is all padding


@settings(max_examples=40)
@given(forests, capacities, st.none() | st.integers(1, 8))
def test_a_token_sees_its_ancestors_and_nothing_else(trees: list[Tree], row: int, window: int | None) -> None:
    packed = pack(trees, row)
    found = cells(packed, trees)
    mask = packed.mask(window)[:, 0]
    for (i, b, k), (r, column) in found.items():
        # The path from the root: all of the prompt, then this branch; a window counts along it.
        path = [(i, 0, j) for j in range(len(trees[i].prompt))] if b else [(i, 0, j) for j in range(k + 1)]
        path += [(i, b, j) for j in range(k + 1)] if b else []
        seen = {found[key][1] for key in path[-window if window else 0 :]}
        assert all(found[key][0] == r for key in path)
        assert set(mask[r, column].nonzero().flatten().tolist()) == seen


@settings(max_examples=60)
@given(forests, capacities)
def test_a_target_is_read_one_token_before_itself_on_its_path(trees: list[Tree], row: int) -> None:
    packed = pack(trees, row)
    found, width = cells(packed, trees), packed.input_ids.shape[1]
    wanted, owner, counts = [], [], []
    for i, one in enumerate(trees):
        for b, reply in enumerate(one.replies):
            for k, token in enumerate(reply):
                r, column = found[(i, b + 1, k - 1) if k else (i, 0, len(one.prompt) - 1)]
                wanted.append((r * width + column, token))
                owner.append(len(counts))
            counts.append(len(reply))
    assert list(zip(packed.reads.tolist(), packed.targets.tolist(), strict=True)) == wanted
    assert packed.owner.tolist() == owner
    assert packed.counts.tolist() == counts


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 30))
def test_first_fit_respects_the_capacity_and_opens_no_bin_in_vain(sizes: list[int], capacity: int) -> None:
    bins = fill(sizes, capacity)
    assert sorted(i for members in bins for i in members) == list(range(len(sizes)))
    loads = [sum(sizes[i] for i in members) for members in bins]
    for members, load in zip(bins, loads, strict=True):
        assert load <= capacity or len(members) == 1 or sizes[members[0]] > capacity >= load - sizes[members[0]]
    # Two bins that are at most half full would have been one.
    assert sum(2 * load <= capacity for load in loads) <= 1


@settings(max_examples=80)
@given(forests, st.integers(1, 120))
def test_batches_cover_every_tree_once_within_the_budget(trees: list[Tree], budget: int) -> None:
    parts = list(batches(trees, budget))
    assert sorted(i for part in parts for i in part) == list(range(len(trees)))
    for part in parts:
        laid = pack([trees[i] for i in part]).input_ids.numel()
        assert laid <= budget or len(part) == 1, (part, laid)


def test_small_trees_share_rows_and_batches() -> None:
    trees = [Tree((5,) * 6, ((6,) * 2, (7,) * 2))] * 20
    assert pack(trees, 50).input_ids.shape == (4, 50)
    assert [len(part) for part in batches(trees, 100)] == [10, 10]
    assert pack(trees[:4]).input_ids.shape == (4, 10)  # equal trees need no padding, and short rows cost least
    assert list(batches([], 100)) == []


def test_a_tree_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack([Tree((), ((5, 6),))])


def test_the_prompt_alone_predicts_the_first_target_of_every_reply() -> None:
    packed = pack([Tree((5, 6, 7), ((8,), (9,), (), (10, 11)))])
    assert packed.reads.tolist() == [2, 2, 2, 5]
    assert packed.targets.tolist() == [8, 9, 10, 11]
    assert packed.counts.tolist() == [1, 1, 0, 2]
    assert torch.equal(packed.position_ids, torch.tensor([[0, 1, 2, 3, 3, 3, 4]]))


@settings(max_examples=80)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12))
def test_the_layout_wastes_less_than_one_tree_a_row(sizes: list[int]) -> None:
    """What the token budget of a batch rests on."""
    rows = arrange(sizes)
    assert sorted(i for members in rows for i in members) == list(range(len(sizes)))
    assert len(rows) * max(sum(sizes[i] for i in members) for members in rows) <= len(sizes) * max(sizes)


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
