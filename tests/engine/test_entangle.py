"""Gradient entanglement: closed form against autograd, the paper's condition against real steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import make_local, make_model

from truing.core.policy import user
from truing.core.trees import Tree
from truing.engine import entangle
from truing.engine.entangle import Products, exact, last_layer, last_layers
from truing.engine.score import score_packed, score_plain
from truing.models.tabular import Tabular

PAIRS = (
    Tree((5, 9, 30), ((11, 40, 41, 7, 2), (11, 40, 50, 2))),
    Tree((8, 20), ((60, 61, 62), (33, 34, 35, 36, 37, 2))),
    Tree((7, 7, 7, 12), ((9,), (10, 11))),
)


def grams(products: Products) -> torch.Tensor:
    """``(n, 3)``: inner product and both squares."""
    return torch.stack([products.inner, products.chosen, products.rejected], 1).double()


def by_autograd(model: Any, trees: Sequence[Tree], parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Brute force: the model's own forward pass for each reply, its gradient as one long vector."""
    rows = []
    for tree in trees:
        flat = []
        for reply in tree.replies:
            total = score_plain(model, [Tree(tree.prompt, (reply,))]).tokens.sum()
            flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)]).double())
        rows.append(torch.stack([flat[0] @ flat[1], flat[0] @ flat[0], flat[1] @ flat[1]]))
    return torch.stack(rows)


def untied(architecture: str) -> tuple[Any, list[torch.Tensor]]:
    """A model in float64 whose output projection is a matrix of its own, and that matrix with its bias."""
    model = make_model(architecture, dtype=torch.float64)
    head = copy.deepcopy(model.get_output_embeddings())
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    model.set_output_embeddings(head)
    return model, list(head.parameters())


class TestLastLayer:
    @pytest.mark.parametrize("architecture", ["llama", "phi", "qwen2", "gemma2"])
    def test_it_is_the_gradient_of_the_output_projection(self, architecture: str) -> None:
        """Phi's projection has a bias; Gemma caps its logits and ties them, where only the use as output counts."""
        tied, (copied, parameters) = make_model(architecture, dtype=torch.float64), untied(architecture)
        states = score_packed(tied, PAIRS).states
        assert states is not None
        assert len(parameters) == (2 if architecture == "phi" else 1)
        found = grams(last_layers(tied, states, PAIRS, [0, 1, 2]))
        rounding = 1e-9 if architecture == "phi" else 1e-6  # the others' norms round to float32 inside
        torch.testing.assert_close(found, by_autograd(copied, PAIRS, parameters), rtol=rounding, atol=rounding)

    def test_some_of_the_pairs_and_no_pair(self) -> None:
        model = make_model("llama")
        states = score_packed(model, PAIRS).states
        assert states is not None
        whole, some = (grams(last_layers(model, states, PAIRS, pairs)) for pairs in ([0, 1, 2], [2, 0]))
        torch.testing.assert_close(some, whole[[2, 0]])
        assert grams(last_layers(model, states, PAIRS, [])).shape == (0, 3)

    @pytest.mark.parametrize("chunk", [1, 3, 4])
    def test_blocks_add_up(self, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        model = make_model("gemma2", dtype=torch.float64)
        states, targets = torch.randn(9, 32, dtype=torch.float64), torch.arange(10, 19)
        whole = last_layer(model, states, targets, 4)
        monkeypatch.setattr(entangle, "CHUNK", chunk)
        torch.testing.assert_close(last_layer(model, states, targets, 4), whole)
        torch.testing.assert_close(whole, whole.T)

    def test_nothing_is_left_behind(self) -> None:
        """It runs between the forward and the backward pass of training: no gradient, and the graph as it was."""
        model = make_model("llama")
        scores = score_packed(model, PAIRS)
        assert scores.states is not None
        last_layers(model, scores.states, PAIRS, [0])
        assert all(p.grad is None for p in model.parameters())
        scores.tokens.sum().backward()
        wanted = make_model("llama")
        score_packed(wanted, PAIRS).tokens.sum().backward()
        for mine, theirs in zip(model.parameters(), wanted.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)


class TestExact:
    @pytest.mark.parametrize("architecture", ["llama", "gemma2"])
    def test_it_is_brute_force_over_every_weight_that_is_trained(self, architecture: str) -> None:
        bench = make_local(architecture, dtype=torch.float64).open()
        frozen = next(p for p in bench.module.parameters() if p.ndim > 1)
        frozen.requires_grad_(False)
        found = grams(exact(bench, PAIRS))
        trained = [p for p in bench.module.parameters() if p.requires_grad]
        torch.testing.assert_close(found, by_autograd(bench.module, PAIRS, trained), rtol=1e-8, atol=1e-8)
        frozen.requires_grad_(True)
        assert not torch.allclose(grams(exact(bench, PAIRS)), found)
        assert all(p.grad is None for p in bench.module.parameters())

    def test_a_table_in_closed_form(self) -> None:
        """With ``grad log p_k = e_k - p``: inner product ``|p|^2 - p_w - p_l``, squares ``|p|^2 + 1 - 2 p_k``."""
        p = torch.tensor([0.1, 0.5, 0.3, 0.1], dtype=torch.float64)
        table = Tabular((user("q"),), ("a", "b", "c", "d"), p.log()[None])
        tree = table.encode(user("q"), ("b", "c"))
        square = float(p @ p)
        wanted = torch.tensor([[square - 0.8, square + 1 - 2 * 0.5, square + 1 - 2 * 0.3]], dtype=torch.float64)
        torch.testing.assert_close(grams(exact(table.open(), [tree])), wanted)


class TestTheCondition:
    """Sections 3 and 4 of the paper: the signs of both changes, told from the products before the step is made."""

    @staticmethod
    def stepped(tree: Tree, pull: float, push: float, size: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(change of both log-probabilities by a plain gradient step on ``-pull log p_w + push log p_l``, told)."""
        bench = make_local("gpt2", dtype=torch.float64).open()  # whose norms round nothing to float32
        told = torch.stack(exact(bench, [tree]).changes(torch.tensor([pull]), torch.tensor([push])))[:, 0] * size
        before = bench.score([tree]).sums
        loss = push * before[1] - pull * before[0]
        parameters = list(bench.module.parameters())
        with torch.no_grad():
            for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= size * grad
            return bench.score([tree]).sums - before, told

    @pytest.mark.parametrize("forces", [(1.0, 1.0), (1.0, 0.4), (0.2, 1.0)])
    def test_the_error_of_what_is_told_is_of_second_order(self, forces: tuple[float, float]) -> None:
        errors = []
        for size in (1e-5, 1e-6):
            changed, told = self.stepped(PAIRS[1], *forces, size)
            errors.append(float((changed - told).abs().max()))
        assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)

    def test_replies_nearly_alike_fall_together_as_was_told(self) -> None:
        """One step of a margin loss: apart where they differ, both down where they share tokens and the rejected one
        has the larger gradient."""
        alike = Tree((9, 4), ((20, 21, 22, 23), (20, 21, 22, 23, 24))), Tree((9, 4), ((20, 20), (21, 20, 20, 20, 20)))
        for tree, wanted in [*((tree, (1.0, -1.0)) for tree in PAIRS), *((tree, (-1.0, -1.0)) for tree in alike)]:
            changed, told = self.stepped(tree, 1.0, 1.0, 1e-6)
            assert tuple(changed.sign().tolist()) == tuple(told.sign().tolist()) == wanted

    def test_margin_losses_go_wrong_where_the_inner_product_beats_a_square(self) -> None:
        """``d_w = d_l``: the chosen reply rises if and only if the inner product is below its own square."""
        products = Products(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 2.0, 9.0]), torch.tensor([4.0, 7.0, 4.0]))
        metrics = products.metrics(torch.full((3,), 0.05), torch.full((3,), 0.05))
        assert metrics["entanglement/chosen_falls"].tolist() == [0.0, 1.0, 0.0]
        assert metrics["entanglement/rejected_rises"].tolist() == [0.0, 0.0, 1.0]
        torch.testing.assert_close(metrics["entanglement/cosine"], torch.tensor([1 / 8, 9 / 14, 25 / 36]).sqrt())

    def test_a_likelihood_term_on_the_chosen_reply_lifts_it(self) -> None:
        """It raises ``d_w``: the second pair above rises as soon as ``d_w / d_l`` passes 3 / 2."""
        products = Products(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([7.0]))
        falls = [
            float(products.metrics(torch.tensor([pull]), torch.tensor([1.0]))["entanglement/chosen_falls"])
            for pull in (1.0, 1.49, 1.51)
        ]
        assert falls == [1.0, 1.0, 0.0]

    def test_an_empty_reply_has_no_gradient(self) -> None:
        nothing = Products(torch.zeros(1), torch.zeros(1), torch.ones(1))
        assert all(float(value) == 0.0 for value in nothing.metrics(torch.ones(1), torch.ones(1)).values())
