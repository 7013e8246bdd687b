"""Shared experts in memory and on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MIXTURES, make_local, same_weights

import truing
from truing.core.artefact import save_policy
from truing.core.errors import InputError
from truing.core.policy import user
from truing.models.experts import Factors, collapsed, expanded, mixtures, rebuilt
from truing.models.local import Local

TOKENS = torch.randint(4, 90, (2, 30), generator=torch.Generator().manual_seed(3))
CHATS, REPLIES = [user("who is in")], ["the thing"]


def some(architecture: str = "mixtral", storage: Any = "plain", *, factors: bool = False) -> Local:
    """Four rows of a router on two experts."""
    policy = make_local(architecture)
    made = {}
    for mixture in mixtures(policy.model):
        up, down = (part[:2].clone() for part in mixture.weights())
        parts: list[Any] = [up, down]
        if factors:
            source = torch.Generator().manual_seed(0)
            parts = [
                Factors(
                    torch.randn(2, part.shape[1], 3, generator=source),
                    torch.randn(2, 3, part.shape[2], generator=source),
                    torch.randn(2, 5, part.shape[2], generator=source),
                    torch.stack([torch.randperm(part.shape[1], generator=source)[:5] for _ in range(2)]),
                )
                for part in parts
            ]
        made[mixture.block] = (torch.tensor([0, 1, 1, 0]), *parts)
    return Local(rebuilt(policy.model, made, storage), policy.tokenizer, name="shared")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_written_out_it_is_transformers_own_model_and_the_same_function(architecture: str, factors: bool) -> None:
    policy = some(architecture, factors=factors)
    whole = expanded(policy.model)
    assert {type(module) for module in whole.modules()} == {type(m) for m in make_local(architecture).model.modules()}
    torch.testing.assert_close(logits(whole), logits(policy.model), rtol=1e-4, atol=1e-4)


def test_collapsing_is_the_inverse_and_lets_be_what_is_no_longer_one() -> None:
    policy = some()
    members = {mixture.block: mixture.members for mixture in mixtures(policy.model)}
    whole = expanded(policy.model)
    again = collapsed(whole, members)
    assert same_weights(Local(again, policy.tokenizer), policy)
    with torch.no_grad():
        mixtures(whole)[0].experts.down_proj[2, 0, 0] += 1
    assert collapsed(whole, members) is whole


@pytest.mark.parametrize("architecture", MIXTURES)
def test_packed_scoring_holds_for_mixtures(architecture: str) -> None:
    policy = some(architecture)
    policy.logprob(CHATS * 2, ["the thing", "no one"])
    assert policy.scorer.layout == "packed"


def test_a_plain_folder_is_transformers_and_is_shared_again_here(tmp_path: Path) -> None:
    import transformers

    policy = some()
    save_policy(policy, tmp_path / "plain")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    torch.testing.assert_close(logits(theirs), logits(policy.model), rtol=1e-4, atol=1e-4)
    ours = truing.load(str(tmp_path / "plain"))
    assert isinstance(ours, Local)
    assert ours.fingerprint == policy.fingerprint
    assert same_weights(ours, policy)


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_compact_folder_comes_back_to_the_bit(architecture: str, factors: bool, tmp_path: Path) -> None:
    policy = some(architecture, "compact", factors=factors)
    save_policy(policy, tmp_path / "compact")
    ours = truing.load(str(tmp_path / "compact"))
    assert isinstance(ours, Local)
    assert ours.fingerprint == policy.fingerprint
    assert torch.equal(logits(ours.model), logits(policy.model))
    assert torch.equal(ours.logprob(CHATS, REPLIES), policy.logprob(CHATS, REPLIES))
    save_policy(ours, tmp_path / "again")
    size = (tmp_path / "compact" / "experts.safetensors").stat().st_size
    assert (tmp_path / "again" / "experts.safetensors").stat().st_size == size
    save_policy(make_local(architecture), tmp_path / "whole")
    assert size < (tmp_path / "whole" / "model.safetensors").stat().st_size


def test_transformers_finds_no_weights_in_a_compact_folder_rather_than_random_ones(tmp_path: Path) -> None:
    import transformers

    save_policy(some(storage="compact"), tmp_path / "compact")
    with pytest.raises(OSError, match="no file named"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "compact")


def test_a_spoilt_note_is_refused(tmp_path: Path) -> None:
    save_policy(some(), tmp_path / "plain")
    (tmp_path / "plain" / "experts.json").write_text(json.dumps({"members": 3}))
    with pytest.raises(InputError, match=r"experts\.json: cannot be read"):
        truing.load(str(tmp_path / "plain"))


def test_a_dense_model_has_no_mixtures() -> None:
    assert mixtures(make_local("llama").model) == ()


def test_training_goes_through_both_rows_of_a_shared_expert() -> None:
    """Its gradient is the sum of those that the copies would get."""
    policy = some()
    whole = expanded(policy.model)
    for model in (policy.model, whole):
        model.zero_grad()
        model(TOKENS, labels=TOKENS).loss.backward()
    for ours, theirs in zip(mixtures(policy.model), mixtures(whole), strict=True):
        apart = theirs.experts.down_proj.grad
        summed = torch.stack([apart[0] + apart[3], apart[1] + apart[2]])
        torch.testing.assert_close(ours.experts.down.weight.grad, summed, rtol=1e-3, atol=1e-6)
