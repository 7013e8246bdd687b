"""Elastic weight consolidation: Fisher information by hand, and its pull."""

from __future__ import annotations

import pytest
import torch
from keeping import CHATS, GIVEN, PAIRS, PROMPTS, REPLIES, moved, table, trained
from tiny import Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import Opening
from truing.core.run import Run
from truing.methods.retain._family import Move
from truing.methods.retain._fisher import diagonal, scaled
from truing.methods.retain.ewc import ewc_penalty


def test_its_gradient_is_the_fisher_information_times_the_move() -> None:
    move = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    fisher = {"a": torch.rand(4, 3, dtype=torch.float64)}
    (found,) = torch.autograd.grad(ewc_penalty({"a": Move(move)}, fisher, weight=0.4), move)
    torch.testing.assert_close(found, 0.4 * fisher["a"] * move.detach())


def test_the_diagonal_of_a_softmax_is_known() -> None:
    """By a row of logits: the mean over replies of ``(onehot - p)^2``, and exactly ``p (1 - p)`` in expectation."""
    base = table()
    trees = base.encode_many([CHATS[0], CHATS[0], CHATS[2]], [(REPLIES[1],), (REPLIES[3],), (REPLIES[0],)])
    found = diagonal(base, Opening(), ["logits"], trees, Run())["logits"]
    eye, chances = torch.eye(4, dtype=torch.float64), base.weights()["logits"].softmax(1)
    wanted = torch.zeros_like(found)
    wanted[0] = ((eye[1] - chances[0]) ** 2 + (eye[3] - chances[0]) ** 2) / 3
    wanted[2] = (eye[0] - chances[2]) ** 2 / 3
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_the_diagonal_of_a_model_is_that_of_autograd(lora_r: int) -> None:
    base = make_local("gpt2" if lora_r else "llama")
    name = "transformer.h.1.mlp.c_fc.weight" if lora_r else "model.layers.1.mlp.up_proj.weight"
    trees = base.encode_many(CHATS[:2], [("the in",), ("no",)])
    how = Opening(lora_r=lora_r) if lora_r else Opening(unfrozen_parameters=("up_proj",))
    found = diagonal(base, how, [name], trees, Run())
    assert list(found) == [name]
    weight, wanted = base.weights()[name], 0
    for tree in trees:
        ids = torch.tensor([[*tree.prompt, *tree.replies[0]]])
        told = base.model(input_ids=ids).logits[0, len(tree.prompt) - 1 : -1].log_softmax(-1)
        nats = told.gather(1, ids[0, len(tree.prompt) :, None]).sum()
        wanted = wanted + torch.autograd.grad(nats, weight)[0].square() / 2
    torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-5)


def test_scales() -> None:
    given = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([[0.0, 0.0, 8.0]]), "c": torch.zeros(1)}
    assert [float(part.mean()) for part in scaled(given, "tensor").values()] == pytest.approx([1, 1, 0])
    model = scaled(given, "model")
    assert float(torch.cat([part.flatten() for part in model.values()]).mean()) == pytest.approx(1)
    assert float(model["b"][0, 2] / model["a"][0]) == pytest.approx(8)
    assert scaled(given, "none")["a"] is given["a"]


def test_it_holds_what_it_is_shown_and_leaves_the_rest() -> None:
    """On a table each prompt has weights of its own: only the demonstrations of prompts that are kept are held."""
    base = table()
    given = Evidence(demos=GIVEN.demos, prompts=CHATS[:2])
    settings = {"max_steps": 60, "learning_rate": 0.05, "given": given}
    held = trained("retain/ewc", base, weight=50.0, **settings).weights()["logits"] - base.weights()["logits"]
    free = trained("retain/ewc", base, weight=0.0, **settings).weights()["logits"] - base.weights()["logits"]
    assert held[:2].norm() < 0.2 * free[:2].norm()
    assert held[2:4].norm() > 0.9 * free[2:4].norm()


@pytest.mark.parametrize("lora_r", [0, 2])
def test_none_is_imitation_and_more_moves_it_less(lora_r: int) -> None:
    base, notes = make_local(), Notes()
    runs = [trained("retain/ewc", base, Run(log=notes), weight=w, lora_r=lora_r, max_steps=12) for w in (0.0, 30.0)]
    assert same_weights(runs[0], trained("imitation/sft", base, lora_r=lora_r, max_steps=12))
    assert 0 < moved(runs[1], base).norm() < 0.95 * moved(runs[0], base).norm()
    assert notes.series("penalty/ewc")[0] == 0


def test_references_are_the_chosen_replies() -> None:
    base = make_local()
    own, chosen = (trained("retain/ewc", base, weight=30.0, keep=keep) for keep in ("own", "chosen"))
    assert not same_weights(own, chosen)
    with pytest.raises(InputError, match="there are no pairs"):
        trained("retain/ewc", base, keep="chosen", given=Evidence(demos=GIVEN.demos, prompts=PROMPTS))
    with pytest.raises(InputError, match="has no prompts"):
        trained("retain/ewc", base, given=Evidence(demos=GIVEN.demos, pairs=PAIRS))
