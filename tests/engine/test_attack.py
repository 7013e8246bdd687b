"""Attacks on prompts in the space of embeddings: what is moved, how far, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from tiny import make_exact, make_local, make_model

from truing.core.policy import Opening, user
from truing.core.trees import Tree, TreeScores
from truing.engine.attack import embedding_attack, radius
from truing.engine.score import score_packed, score_plain
from truing.models.tabular import Tabular, TabularWorkbench

KINDS = pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma", "gemma3"])
TREES = [Tree((5, 9, 14, 30), ((40, 41, 42),)), Tree((8,), ((50, 51),)), Tree((20, 21, 22), ((60, 61, 62, 63),))]
PROMPTS = 8
FAR = {"epsilon": 0.5, "step_size": 0.05, "steps": 12}


def surprise(scores: TreeScores) -> torch.Tensor:
    return -scores.sums.detach()


@KINDS
def test_a_shift_is_a_changed_row_of_the_embedding_matrix(architecture: str) -> None:
    """No token comes twice, so a prompt's shift can be put into its tokens' rows: of scaled embeddings too."""
    model = make_model(architecture, tie_word_embeddings=False)
    shift = torch.randn(PROMPTS, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    with torch.no_grad():
        packed, plain = (score(model, TREES, shift=shift).tokens for score in (score_packed, score_plain))
        clean = score_packed(model, TREES).tokens
        rows = [token for tree in TREES for token in tree.prompt]
        changed = make_model(architecture, tie_word_embeddings=False)
        changed.get_input_embeddings().weight[rows] += shift
        wanted = score_packed(changed, TREES).tokens
    torch.testing.assert_close(packed, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(plain, wanted, rtol=0, atol=1e-4)
    assert (packed - clean).abs().max() > 0.1


@KINDS
def test_no_token_is_moved_further_than_the_radius_and_some_as_far(architecture: str) -> None:
    bench = make_local(architecture).open()
    most = 0.5 * bench.embeddings.norm(dim=1).mean().item()
    assert radius(bench, 0.5) == pytest.approx(most)
    norms = embedding_attack(bench, TREES, **FAR).norm(dim=1)
    assert norms.shape == (PROMPTS,)
    assert (norms <= most * (1 + 1e-6)).all()
    assert norms.max() == pytest.approx(most, rel=1e-4)


@KINDS
def test_small_steps_raise_the_target_every_time(architecture: str) -> None:
    bench = make_local(architecture).open()
    found = [bench.score(TREES)]
    for steps in (1, 2, 4, 8):
        shift = embedding_attack(bench, TREES, epsilon=0.5, step_size=1e-3, steps=steps)
        found.append(bench.score(TREES, shift))
    losses = torch.stack([surprise(scores) for scores in found])
    assert (losses.diff(dim=0) < 0).all()
    assert (losses[0] - losses[-1]).min() > 0.05


@KINDS
def test_weights_take_no_gradient_and_lose_none(architecture: str) -> None:
    bench = make_local(architecture).open(Opening(gradient_checkpointing=True))
    parameters = list(bench.module.parameters())
    embedding_attack(bench, TREES, **FAR)
    assert all(p.grad is None and p.requires_grad for p in parameters)
    bench.score(TREES).tokens.sum().backward()
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    with torch.no_grad():  # as in an evaluation
        shift = embedding_attack(bench, TREES, **FAR)
    assert shift.abs().max() > 0
    assert not shift.requires_grad
    assert any(old is not None for old in before)
    assert all(old is None or torch.equal(p.grad, old) for p, old in zip(parameters, before, strict=True))


def test_what_is_frozen_stays_so() -> None:
    bench = make_local().open(Opening(lora_r=2))
    before = [p.requires_grad for p in bench.module.parameters()]
    embedding_attack(bench, TREES, **FAR)
    assert [p.requires_grad for p in bench.module.parameters()] == before
    assert len(set(before)) == 2


def test_a_prompt_is_attacked_alike_alone_and_among_others() -> None:
    bench = make_exact("llama").open()
    together = embedding_attack(bench, TREES, **FAR)
    alone = torch.cat([embedding_attack(bench, [tree], **FAR) for tree in TREES])
    torch.testing.assert_close(together, alone)


def test_replies_are_not_moved() -> None:
    """A second tree says the first one's reply: its scores are those without a shift where its own prompt has none."""
    bench = make_local().open()
    trees = [TREES[0], Tree((8, 9), TREES[0].replies)]
    shift = torch.zeros(6, 32)
    shift[:4] = embedding_attack(bench, trees[:1], **FAR)
    with torch.no_grad():
        moved, clean = bench.score(trees, shift), bench.score(trees)
    assert (moved.tokens[:3] - clean.tokens[:3]).abs().min() > 1e-3
    torch.testing.assert_close(moved.tokens[3:], clean.tokens[3:], rtol=0, atol=1e-6)


class Counted(TabularWorkbench):
    """Counts its passes."""

    passes = 0

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        self.passes += 1
        return super().score(trees, shift)


LOGITS = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.5, 0.0]], dtype=torch.float64)


def table() -> Counted:
    return Counted(Tabular((user("a"), user("b")), tuple("xyz"), LOGITS))


def test_one_step_on_a_table_by_hand() -> None:
    """A prompt is a row of the identity, so the slope of ``log p(y)`` is the column less the mean column."""
    tree = Tree((0,), ((2,),))
    slope = LOGITS[:, 2] - LOGITS @ LOGITS[0].softmax(0)
    found = embedding_attack(table(), [tree], epsilon=10.0, step_size=0.1, steps=1)
    torch.testing.assert_close(found, 0.1 * slope.sign()[None])
    scored = table().score([tree], found).tokens
    torch.testing.assert_close(scored, (LOGITS[0] + found[0] @ LOGITS).log_softmax(0)[2:])


@pytest.mark.parametrize("nothing", [{"epsilon": 0.0}, {"steps": 0}, {"step_size": 0.0}])
def test_without_radius_or_steps_nothing_moves(nothing: dict[str, float]) -> None:
    bench = table()
    found = embedding_attack(bench, [Tree((0,), ((2,),))], **{**FAR, **nothing})
    assert not found.any()
    assert bench.passes == (12 if "step_size" in nothing else 0)
    assert embedding_attack(bench, [], **FAR).shape == (0, 2)
