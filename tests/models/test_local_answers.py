"""What a local policy answers: draws carry their own scores, whatever shares a call, a prompt or a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, TEMPLATE, make_local, make_model, make_tokenizer, words

from truing.core.artefact import save_policy
from truing.core.policy import Message, Sampling, user
from truing.core.rng import Rng
from truing.engine.draw import Sampler
from truing.models.local import Local, load_local

CHATS = [user("who is in"), (Message("system", "be kind"), *user("the thing")), ()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_draws_carry_their_own_scores(architecture: str) -> None:
    policy = make_local(architecture)
    drawn = policy.sample(CHATS, n=3, sampling=Sampling(max_new_tokens=9, temperature=0.7, top_k=20), rng=Rng(2))
    for chat, row in zip(CHATS, drawn, strict=True):
        for draw, logprobs in zip(row, policy.token_logprobs([chat] * 3, row), strict=True):
            torch.testing.assert_close(logprobs, torch.tensor(draw.logprobs), rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_saves_and_loads(architecture: str, tmp_path: Path) -> None:
    """With the attention that it needs: a soft cap is not possible under every implementation."""
    policy = make_local(architecture)
    save_policy(policy, tmp_path / "model")
    loaded = load_local(str(tmp_path / "model"))
    assert loaded.fingerprint == policy.fingerprint
    asked, replies = CHATS[:2], ["a thin man", "in"]
    torch.testing.assert_close(loaded.logprob(asked, replies), policy.logprob(asked, replies), rtol=0, atol=1e-5)
    how = Sampling(max_new_tokens=6)
    assert loaded.sample(CHATS, n=2, sampling=how, rng=Rng(0)) == policy.sample(CHATS, n=2, sampling=how, rng=Rng(0))


def test_the_generation_config_ends_a_reply_too() -> None:
    policy = make_local()
    policy.model.generation_config.eos_token_id = [2, 40]
    rows = policy.sample(CHATS[:2], n=30, sampling=Sampling(max_new_tokens=40), rng=Rng(0))
    assert {draw.token_ids[-1] for row in rows for draw in row if draw.finish == "stop"} == {2, 40}
    assert all("<end>" not in draw.text for row in rows for draw in row)


def test_what_was_frozen_can_be_trained() -> None:
    bench = Local(make_model("llama").requires_grad_(False), make_tokenizer()).open()
    assert all(parameter.requires_grad for parameter in bench.module.parameters())


def test_a_closed_bench_is_another_policy_and_the_first_is_left(tiny_policy: Local) -> None:
    mark, tree = tiny_policy.fingerprint, tiny_policy.encode(CHATS[0], ["a thin man"])
    bench = tiny_policy.open()
    bench.score([tree]).tokens.sum().backward()
    with torch.no_grad():
        for parameter in bench.module.parameters():
            parameter -= 0.1 * (parameter.grad if parameter.grad is not None else 0)
    closed = bench.close()
    assert isinstance(closed, Local)
    assert closed.logprob(CHATS[:1], ["a thin man"]) < tiny_policy.logprob(CHATS[:1], ["a thin man"])
    assert all(parameter.grad is None for parameter in closed.model.parameters())
    assert Local(tiny_policy.model, tiny_policy.tokenizer).fingerprint == mark != closed.fingerprint


@pytest.mark.parametrize("template", [TEMPLATE, None], ids=["template", "plain"])
def test_a_reply_that_was_begun_is_gone_on_from(template: str | None) -> None:
    """The beginning belongs to the prompt: it is neither drawn, nor scored, nor in the text."""
    policy = make_local(template=template)
    begun = (*user("who is in"), Message("assistant", "the t"))
    row = policy.sample([begun], n=4, sampling=Sampling(max_new_tokens=8, temperature=0.8), rng=Rng(2))[0]
    prompt = policy.tokenizer(
        policy.template.render(user("who is in")) + "the t", add_special_tokens=template is None
    ).input_ids
    assert policy.encode(begun, row).prompt == tuple(prompt)
    for draw, logprobs in zip(row, policy.token_logprobs([begun] * 4, row), strict=True):
        ids = torch.tensor([[*prompt, *draw.token_ids]])
        with torch.no_grad():
            own = policy.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = own.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(draw.logprobs), wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(logprobs, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "how",
    [{"temperature": 1.7}, {"top_k": 4}, {"top_p": 0.5}, {"min_p": 0.2}, {"temperature": 0}, {"stop": ("e", "o")}],
    ids=str,
)
def test_scores_are_the_policys_however_it_was_drawn(how: dict[str, Any], tiny_policy: Local) -> None:
    """Without temperature and filters, the token in which a stop text ended included."""
    drawn = tiny_policy.sample(CHATS, n=3, sampling=Sampling(max_new_tokens=12, **how), rng=Rng(5))
    trees = [tiny_policy.encode(chat, row) for chat, row in zip(CHATS, drawn, strict=True)]
    scored = tiny_policy.tree_logprobs(trees, tiny_policy.log)
    flat = [draw for row in drawn for draw in row]
    for draw, logprobs in zip(flat, scored, strict=True):
        torch.testing.assert_close(logprobs, torch.tensor(draw.logprobs), rtol=0, atol=1e-4)
    if "stop" in how:
        assert any(draw.text != tiny_policy.tokenizer.decode(draw.token_ids) for draw in flat)
        assert not any(stop in draw.text for stop in how["stop"] for draw in flat)


@pytest.mark.slow
def test_a_real_model_draws_alike_in_every_batch() -> None:
    """SmolLM2: the same tokens, whatever else is in the batch; greedy as transformers generates."""
    from truing.models import load_model

    policy = load_model("smollm2")
    assert isinstance(policy, Local)
    chats = [user(f"Write a sentence about the number {i}" + " and how it is used" * (i % 3)) for i in range(16)]
    prompts, how = policy.template.prompts(chats), Sampling(max_new_tokens=48)
    drawn = []
    for rows in (3, 64):
        sampler = Sampler(policy.model, policy.stop_ids, policy._text, rows)
        drawn.append(words(sampler(prompts, n=2, sampling=how, rng=Rng(0))))
    assert drawn[0] == drawn[1]
    ids = torch.tensor([prompts[0]])
    expected = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
    greedy = policy.sample(chats[:1], n=1, sampling=Sampling(max_new_tokens=32, temperature=0), rng=Rng(0))
    assert list(greedy[0][0].token_ids) == expected[0, len(prompts[0]) :].tolist()
