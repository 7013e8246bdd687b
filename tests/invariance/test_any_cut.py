"""Random trees in random cuts: the gradient is that of every sequence alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_exact, random_trees

from truing.core.trees import Tree
from truing.engine import vocabulary
from truing.engine.score import score_packed, score_plain


@cache
def model_of(architecture: str) -> Any:
    return make_exact(architecture).model


def gradient(model: Any, losses: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(losses, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def cut(seed: int, trees: Sequence[Tree]) -> list[list[Tree]]:
    """The trees in random order, in parts of random size, each tree's replies in one or two parts."""
    source = random.Random(seed)
    parts: list[list[Tree]] = []
    pieces: list[Tree] = []
    for tree in trees:
        at = source.randint(0, len(tree.replies))
        pieces += [Tree(tree.prompt, half) for half in (tree.replies[:at], tree.replies[at:]) if half]
    source.shuffle(pieces)
    while pieces:
        size = source.randint(1, len(pieces))
        parts.append(pieces[:size])
        pieces = pieces[size:]
    return parts


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@settings(max_examples=25)
@given(st.integers(0, 10**9), st.integers(1, 6), st.sampled_from([1, 3, 8, 512]))
def test_any_cut_has_the_same_gradient(architecture: str, seed: int, count: int, chunk: int) -> None:
    """Of the mean over all tokens, with losses that are not linear in a reply's log-probability."""
    model, trees = model_of(architecture), random_trees(seed, count)
    total = sum(len(reply) for tree in trees for reply in tree.replies)
    if total == 0:
        return

    def loss(scores: Any) -> torch.Tensor:
        sums = scores.sums
        return (torch.nn.functional.softplus(0.05 * sums) - sums).sum() / total

    alone = [loss(score_plain(model, [Tree(tree.prompt, (r,))])) for tree in trees for r in tree.replies if r]
    expected = gradient(model, torch.stack(alone).sum())
    empty = sum(not reply for tree in trees for reply in tree.replies)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "CHUNK", chunk)
        parts = [loss(score_packed(model, part)) for part in cut(seed, trees)]
        found = sum(gradient(model, part) for part in parts if part.requires_grad)
    told = float(sum(part.detach() for part in parts))
    assert told == pytest.approx(float(sum(part.detach() for part in alone)) + empty * 0.6931471805599453 / total)
    assert isinstance(found, torch.Tensor)
    assert float((found - expected).norm()) <= 1e-12 * max(1.0, float(expected.norm()))
