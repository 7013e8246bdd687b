"""What a local policy answers: draws carry their own scores, whatever shares a call, a prompt or a window."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, make_local, make_model, make_tokenizer

from truing.core.artefact import save_policy
from truing.core.policy import Message, Sampling, user
from truing.core.rng import Rng
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
