"""Packed log-probabilities and gradients against the model's own forward pass, for every architecture."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, Notes, make_exact, make_model, random_trees

from truing.core.trees import Tree, TreeScores
from truing.engine import attend, score, vocabulary
from truing.engine.attend import Layout
from truing.engine.score import Scorer, score_packed, score_plain
from truing.engine.vocabulary import target_logprobs

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
LONG = [Tree(tuple(range(10, 30)), (tuple(range(40, 60)), tuple(range(60, 75)))), Tree((7, 8, 9), ((10, 11),))]


def begun(trees: Sequence[Tree]) -> list[Tree]:
    """The same trees under a system prompt of 18 tokens, so that a row has a trunk."""
    head = tuple(range(30, 48))
    return [Tree((*head, *tree.prompt), tree.replies) for tree in trees]


def gradient(model: Any, scores: TreeScores) -> torch.Tensor:
    """Of a sum in which every token has a weight of its own, over all parameters."""
    weight = torch.linspace(-1, 2, len(scores.tokens), dtype=scores.tokens.dtype)
    parts = torch.autograd.grad((weight * scores.tokens).sum(), list(model.parameters()), allow_unused=True)
    return torch.cat([p.flatten() for p in parts if p is not None])


@every_architecture
@settings(max_examples=8)
@given(st.integers(0, 10**6), st.booleans())
def test_packed_equals_plain(architecture: str, tiny_model: Callable[[str], Any], seed: int, trunk: bool) -> None:
    model, trees = tiny_model(architecture), random_trees(seed, 5)
    trees = begun(trees) if trunk else trees
    with torch.no_grad():
        packed, plain = score_packed(model, trees), score_plain(model, trees)
    torch.testing.assert_close(packed.tokens, plain.tokens, rtol=0, atol=1e-5)
    assert torch.equal(packed.owner, plain.owner)
    assert torch.equal(packed.counts, plain.counts)
    torch.testing.assert_close(packed.sums, plain.sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("under", [list, begun], ids=["apart", "trunk"])
@every_architecture
def test_gradients_of_packed_equal_those_of_plain(
    architecture: str, under: Callable[[Sequence[Tree]], list[Tree]], tiny_model: Callable[[str], Any]
) -> None:
    model, trees = tiny_model(architecture), under(random_trees(3, 6))
    packed, plain = gradient(model, score_packed(model, trees)), gradient(model, score_plain(model, trees))
    assert plain.norm() > 1
    assert (packed - plain).norm() <= 1e-4 * plain.norm()


@pytest.mark.parametrize("architecture", ["qwen2_windows", "mistral", "gemma2", "gemma3", "phi3"])
def test_a_sliding_window_cuts_the_context(architecture: str, tiny_model: Callable[[str], Any]) -> None:
    """Sequences of 40 tokens under a window of 6: without it the scores are others, with it they are the model's."""
    model = tiny_model(architecture)
    with torch.no_grad():
        packed, plain = score_packed(model, LONG), score_plain(model, LONG)
        wide = make_model(architecture, sliding_window=400)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wide.parameters(), strict=True))
        other = score_packed(wide, LONG)
    torch.testing.assert_close(packed.tokens, plain.tokens, rtol=0, atol=1e-5)
    assert (packed.tokens - other.tokens).abs().max() > 0.05


def test_layers_that_are_all_full_never_slide() -> None:
    """A configuration may state a window that none of its layers uses."""
    model = make_model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert set(model.config.layer_types) == {"full_attention"}
    assert model.config.sliding_window == 4
    with torch.no_grad():
        torch.testing.assert_close(score_packed(model, LONG).tokens, score_plain(model, LONG).tokens, rtol=0, atol=1e-5)


def test_float64_agrees_to_its_own_precision() -> None:
    for architecture in ("llama", "gpt2"):
        model, trees = make_exact(architecture).model, random_trees(5, 6)
        packed, plain = score_packed(model, trees), score_plain(model, trees)
        assert packed.tokens.dtype == torch.float64
        torch.testing.assert_close(packed.tokens, plain.tokens, rtol=0, atol=1e-12)
        a, b = gradient(model, packed), gradient(model, plain)
        assert (a - b).norm() <= 1e-12 * b.norm()


def test_half_precision_is_summed_in_float32(tiny_model: Callable[[str], Any]) -> None:
    model, trees = make_model("llama", dtype=torch.bfloat16), random_trees(5, 6)
    with torch.no_grad():
        packed, wide = score_packed(model, trees), score_plain(tiny_model("llama"), trees)
    assert packed.tokens.dtype == torch.float32
    assert 1e-4 < (packed.tokens - wide.tokens).abs().max() < 0.5


def test_the_size_of_a_chunk_changes_nothing(tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, trees = tiny_model("gemma2"), random_trees(8, 6)
    whole = score_packed(model, trees)
    expected = gradient(model, whole)
    for chunk in (1, 7, len(whole.tokens)):
        monkeypatch.setattr(vocabulary, "CHUNK", chunk)
        again = score_packed(model, trees)
        torch.testing.assert_close(again.tokens, whole.tokens, rtol=0, atol=1e-6)
        found = gradient(model, again)
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_the_full_logits_never_exist(tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, trees, sizes = tiny_model("llama"), random_trees(8, 8), []
    inner = vocabulary.project

    def spy(model: Any, hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return inner(model, hidden)

    monkeypatch.setattr(vocabulary, "project", spy)
    monkeypatch.setattr(vocabulary, "CHUNK", 5)
    scores = score_packed(model, trees)
    assert max(sizes) == 5
    assert sum(sizes) == len(scores.tokens) < sum(tree.size for tree in trees)
    scores.tokens.sum().backward()
    last = (len(scores.tokens) - 1) % 5 + 1
    assert sum(sizes) == 2 * len(scores.tokens) - last, "computed again in the backward pass, all but the last"
    model.zero_grad(set_to_none=True)


def test_no_two_chunks_of_logits_are_there_at_once(
    tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the forward pass, which keeps the last, nor in the backward pass, which begins with it."""
    model, trees, alive, most = tiny_model("llama"), random_trees(8, 8), weakref.WeakSet[Any](), 0
    inner = vocabulary.project

    def spy(model: Any, hidden: torch.Tensor) -> torch.Tensor:
        nonlocal most
        made = inner(model, hidden)
        alive.add(made.untyped_storage())
        most = max(most, len(alive))
        return made

    monkeypatch.setattr(vocabulary, "project", spy)
    monkeypatch.setattr(vocabulary, "CHUNK", 5)
    score_packed(model, trees).tokens.sum().backward()
    assert most == 1
    model.zero_grad(set_to_none=True)


def test_projection_by_hand() -> None:
    """``log_softmax`` of a linear map, in closed form; then with each architecture's own scale and cap."""
    weight, hidden = torch.randn(7, 3), torch.randn(4, 3)
    targets = torch.tensor([0, 6, 3, 3])

    def model(**settings: float) -> Any:
        config = SimpleNamespace(**settings)
        config.get_text_config = lambda: config
        return SimpleNamespace(config=config, get_output_embeddings=lambda: lambda h: h @ weight.T)

    logits = hidden @ weight.T
    cases = [({}, logits), ({"logits_scaling": 8.0}, logits / 8), ({"logit_scale": 0.25}, logits * 0.25)]
    cases.append(({"final_logit_softcapping": 1.5}, 1.5 * (logits / 1.5).tanh()))
    for settings_, expected in cases:
        found = target_logprobs(model(**settings_), hidden, targets)
        torch.testing.assert_close(found, expected.log_softmax(-1)[torch.arange(4), targets])
    assert target_logprobs(model(), hidden[:0], targets[:0]).shape == (0,)


def test_replies_share_the_prompt_and_its_last_token(tiny_model: Callable[[str], Any]) -> None:
    """First targets of all replies are read at one place; a one-token prompt is a prompt."""
    model = tiny_model("llama")
    tree = Tree((9,), ((10,), (11,), (12, 13)))
    with torch.no_grad():
        found = score_packed(model, [tree]).tokens
        first = model(torch.tensor([[9]])).logits[0, -1].log_softmax(-1)
        second = model(torch.tensor([[9, 12]])).logits[0, -1].log_softmax(-1)
    torch.testing.assert_close(found, torch.stack([first[10], first[11], first[12], second[13]]), rtol=0, atol=1e-5)


class TestProof:
    """The scorer shows on the first batch that its layout is right on this model, or goes without it."""

    def test_a_sound_model_is_packed(self, tiny_model: Callable[[str], Any], notes: Notes) -> None:
        scorer, trees = Scorer(tiny_model("gemma3"), log=notes), random_trees(1, 5)
        with torch.no_grad():
            found = scorer(trees)
            torch.testing.assert_close(found.tokens, score_plain(tiny_model("gemma3"), trees).tokens, rtol=0, atol=1e-5)
        assert scorer.layout == "packed"
        assert notes.said == []

    @pytest.mark.parametrize("way", ["blind", "untold", "lacks", "chunked", "windowless"])
    def test_a_model_that_breaks_goes_one_by_one_and_says_so(
        self, way: str, notes: Notes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, trees = make_model("qwen2_windows" if way == "windowless" else "llama"), random_trees(2, 5)
        inner, honest = model.model.forward, attend.attention

        def forward(*args: Any, **given: Any) -> Any:
            layout = given.pop("trees", None)
            return inner(*args, **given) if way == "untold" or layout is None else SimpleNamespace(hidden=None)

        def attention(module: Any, *tensors: Any, **given: Any) -> Any:
            if way == "windowless":
                return honest(module, *tensors, **{**given, "sliding_window": None})
            whole = Layout(((tensors[0].shape[2], ()),))  # as if it were one sequence: all see the row before them
            return honest(module, *tensors, **{**given, "trees": whole})

        if way in ("untold", "lacks"):
            monkeypatch.setattr(model.model, "forward", forward)
        elif way == "chunked":
            model.config.layer_types = ["chunked_attention", "full_attention"]
        else:
            monkeypatch.setattr(attend, "attention", attention)
        scorer = Scorer(model, log=notes)
        pieces = scorer.many(trees)
        assert scorer.layout == "plain"
        warning = f"warning: {type(model).__name__} gives other results"
        assert [line.startswith(warning) for line in notes.said] == [True]
        monkeypatch.undo()
        with torch.no_grad():
            torch.testing.assert_close(torch.cat(pieces), score_plain(model, trees).tokens, rtol=0, atol=1e-6)

    def test_empty_replies_decide_nothing(self, tiny_model: Callable[[str], Any]) -> None:
        scorer = Scorer(tiny_model("llama"))
        assert [len(piece) for piece in scorer.many([Tree((5, 6), ((), ()))])] == [0, 0]
        assert scorer.layout is None
        assert [len(piece) for piece in scorer.many([Tree((5, 6), ((), (7,)))])] == [0, 1]
        assert scorer.layout == "packed"

    def test_the_proof_leaves_the_training_mode(self) -> None:
        model = make_model("llama").train()
        Scorer(model)(random_trees(0, 2))
        assert model.training


def test_many_gives_every_reply_in_order_whatever_the_budget(tiny_model: Callable[[str], Any]) -> None:
    model, trees = tiny_model("llama"), random_trees(11, 12)
    with torch.no_grad():
        plain = score_plain(model, trees)
    wanted = plain.tokens.split(plain.counts.tolist())
    for budget in (1, 60, 5000):
        found = Scorer(model, budget).many(trees)
        assert len(found) == sum(len(tree.replies) for tree in trees)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert Scorer(model).many([]) == []


def test_what_many_gives_can_stand_in_a_loss(tiny_model: Callable[[str], Any]) -> None:
    """Tensors of inference mode cannot: autograd would not save them."""
    reference = torch.cat(Scorer(tiny_model("llama")).many(random_trees(1, 2)))
    scale = torch.ones_like(reference, requires_grad=True)
    (scale * reference).sum().backward()
    assert torch.equal(scale.grad, reference)


@pytest.mark.parametrize(("budget", "sizes"), [(40, [38, 29]), (4096, [47])])
def test_a_prompt_is_read_once_for_all_that_is_asked_of_it(
    budget: int, sizes: list[int], tiny_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs over one prompt and three replies: one tree of three replies, cut only where the budget is short."""
    model, prompt, replies = tiny_model("mistral"), tuple(range(10, 30)), [tuple(range(k, k + 9)) for k in (5, 6, 7)]
    pairs = [Tree(prompt, (replies[a], replies[b])) for a, b in ((0, 1), (2, 1), (0, 2))]
    inner, seen = score.score_packed, []

    def spy(model: Any, trees: Sequence[Tree], *more: Any) -> TreeScores:
        seen.append(sum(tree.size for tree in trees))
        return inner(model, trees, *more)

    monkeypatch.setattr(score, "score_packed", spy)
    found = Scorer(model, budget, layout="packed").many(pairs)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(found), score_plain(model, pairs).tokens, rtol=0, atol=1e-5)
    assert seen == sizes
