"""Counted operations against torch's own counter, which counts the products that a model really runs."""

from __future__ import annotations

import pytest
import torch
from harness.flops import forward_load, seen_keys, shape_of, tree_load
from tiny import make_model
from torch.utils.flop_counter import FlopCounterMode

from truing.core.trees import Tree


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_a_forward_pass_counts_what_torch_counts(architecture: str) -> None:
    """A whole pass computes every score and every logit: so many keys, so many targets."""
    model, rows, length = make_model(architecture), 3, 7
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.randint(3, 90, (rows, length)), use_cache=False)
    tokens, keys = rows * length, rows * length * length
    load = forward_load(shape_of(model), tokens=tokens, keys=keys, targets=tokens)
    assert load.forward == counter.get_total_flops()


def test_backward_is_twice_forward() -> None:
    """A gradient for both factors of every product."""
    model = make_model("gpt2")
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 90, (2, 5))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    assert forward_load(shape_of(model), tokens=10, keys=50, targets=10).step == counter.get_total_flops()


def test_a_tree_sees_its_prompt_once_and_no_other_reply() -> None:
    """Brute force over every token and key."""
    tree = Tree((1, 2, 3), ((4, 5), (6,), (7, 8, 9, 10)))
    branch = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    seen = sum(b in (0, a) for q, a in enumerate(branch) for b in branch[: q + 1])
    assert seen_keys(tree) == seen


def test_the_load_of_trees_is_the_sum_of_their_loads() -> None:
    shape = shape_of(make_model("llama"))
    trees = [Tree((1, 2), ((3,), (4, 5))), Tree((1,), ((2, 3, 4), (5,)))]
    whole = tree_load(shape, trees)
    parts = [tree_load(shape, [tree]) for tree in trees]
    assert whole.forward == sum(part.forward for part in parts)
    assert whole.projection == 2 * shape.hidden * shape.vocabulary * 7


def test_what_all_prompts_begin_with_counts_once() -> None:
    """As a tree of its own, whose keys every tree behind it sees."""
    shape, head = shape_of(make_model("llama")), tuple(range(20))
    trees = [Tree((*head, 30), ((3,), (4, 5))), Tree((*head, 31, 32), ((6,),))]
    trunk, whole = tree_load(shape, [Tree(head, ())]), tree_load(shape, trees)
    parts = [tree_load(shape, [tree]) for tree in trees]
    assert whole.forward == sum(part.forward for part in parts) - trunk.forward
