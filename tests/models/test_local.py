"""Models with weights at hand: what is saved reads alike elsewhere, what is unsafe is refused, and the template."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import TEMPLATE, make_local, make_model, make_tokenizer, same_weights

from truing import load
from truing.core.errors import InputError
from truing.core.policy import Chat, Draw, Message, Sampling, user
from truing.core.rng import Rng
from truing.models.local import Local, load_local

CHATS: list[Chat] = [user("the thin hat"), (Message("system", "be in"), *user("why?")), user("the thin hat")]
REPLIES = ["then in", "nothing at all", ""]


@pytest.fixture(scope="module")
def folder(tiny_policy: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy, saved."""
    path = tmp_path_factory.mktemp("saved")
    tiny_policy.save(path)
    return path


def by_transformers(model: Any, tokenizer: Any, chat: Chat, reply: str) -> torch.Tensor:
    """Log-probability of each token of a reply and its end of turn, by transformers alone."""
    rows = [{"role": turn.role, "content": turn.content} for turn in chat]
    text = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    target = tokenizer(reply + "<end>", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).squeeze(1)


def test_a_saved_policy_is_a_model_of_plain_transformers(tiny_policy: Local, folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    got = tiny_policy.token_logprobs(CHATS, REPLIES)
    for chat, reply, ours in zip(CHATS, REPLIES, got, strict=True):
        torch.testing.assert_close(ours, by_transformers(model, tokenizer, chat, reply), rtol=1e-4, atol=1e-4)
    prompt = torch.tensor([tiny_policy.template.prompts(CHATS[:1])[0]])
    made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
    greedy = tiny_policy.sample(CHATS[:1], n=1, sampling=Sampling(max_new_tokens=6, temperature=0), rng=Rng(0))
    assert tuple(made[0, prompt.shape[1] :].tolist()) == greedy[0][0].token_ids


def test_a_saved_policy_loads_as_the_same_policy(tiny_policy: Local, folder: Path) -> None:
    again = load(str(folder))
    assert isinstance(again, Local)
    assert again.fingerprint == tiny_policy.fingerprint
    assert again.origin == str(folder)
    assert same_weights(again, tiny_policy)
    settings = {"n": 2, "sampling": Sampling(max_new_tokens=5), "rng": Rng(3)}
    assert again.sample(CHATS, **settings) == tiny_policy.sample(CHATS, **settings)  # type: ignore[arg-type] # as above


@pytest.mark.parametrize("change", ["weights", "template", "window"])
def test_whatever_decides_answers_is_in_the_fingerprint(tiny_policy: Local, change: str) -> None:
    if change == "weights":
        tensors = dict(tiny_policy.weights())
        name = next(iter(tensors))
        other = tiny_policy.with_weights({**tensors, name: tensors[name] + 1e-3})
    elif change == "template":
        other = make_local(template=TEMPLATE.replace("<turn>", "<turn> "))
    else:
        other, tiny_policy = make_local("mistral", sliding_window=5), make_local("mistral")
    assert other.fingerprint != tiny_policy.fingerprint


def test_equal_policies_have_one_fingerprint() -> None:
    assert make_local().fingerprint == make_local().fingerprint


def test_other_weights_leave_the_policy_as_it_is(tiny_policy: Local) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_policy.weights().items()}
    other = tiny_policy.with_weights({name: tensor * 2 for name, tensor in before.items()})
    assert all(torch.equal(tiny_policy.weights()[name], before[name]) for name in before)
    assert all(torch.equal(other.weights()[name], 2 * before[name]) for name in before)
    tree = tiny_policy.encode(CHATS[0], ["in"])
    bench = tiny_policy.open()
    with torch.no_grad():
        for parameter in bench.module.parameters():
            parameter.zero_()
    assert float(bench.score([tree]).sums[0].detach()) != float(tiny_policy.logprob(CHATS[:1], ["in"])[0])
    assert all(torch.equal(tiny_policy.weights()[name], before[name]) for name in before)


def test_weights_that_do_not_fit_are_refused(tiny_policy: Local) -> None:
    tensors = dict(tiny_policy.weights())
    name = next(iter(tensors))
    for wrong in ({**tensors, "odd": tensors[name]}, {**tensors, name: tensors[name][:1]}, {}):
        with pytest.raises(InputError, match="weights do not fit"):
            tiny_policy.with_weights(wrong)


def adapter(folder: Path, base: Path) -> tuple[Path, Any]:
    """A PEFT adapter with random weights, saved, and PEFT's own model of it."""
    import peft

    model = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    ).eval()
    model.save_pretrained(folder)
    return folder, model


def test_an_adapter_is_merged_and_answers_as_peft_does(folder: Path, tmp_path: Path, tiny_policy: Local) -> None:
    path, model = adapter(tmp_path / "adapter", folder)
    tokenizer = make_tokenizer()
    for policy in (load_local(str(path)), load_local(str(folder), adapter=str(path))):
        assert policy.weights().keys() == tiny_policy.weights().keys(), "nothing of the adapter is left beside"
        for chat, reply, ours in zip(CHATS, REPLIES, policy.token_logprobs(CHATS, REPLIES), strict=True):
            torch.testing.assert_close(ours, by_transformers(model, tokenizer, chat, reply), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(policy.logprob(CHATS, REPLIES), tiny_policy.logprob(CHATS, REPLIES), atol=1e-2)


def test_a_merged_adapter_saves_as_a_whole_model(folder: Path, tmp_path: Path) -> None:
    path, _ = adapter(tmp_path / "adapter", folder)
    policy = load(str(path))
    (tmp_path / "whole").mkdir()
    policy.save(tmp_path / "whole")
    assert load(str(tmp_path / "whole")).fingerprint == policy.fingerprint


def test_an_adapter_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Give a PEFT adapter folder"):
        load_local(str(folder), adapter=str(tmp_path))


def pickled(source: Path, target: Path) -> Path:
    """The same model with its weights as a pickle."""
    make_tokenizer().save_pretrained(target)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    model.config.save_pretrained(target)
    torch.save(model.state_dict(), target / "pytorch_model.bin")
    return target


def test_pickles_are_refused_unless_allowed(folder: Path, tmp_path: Path, tiny_policy: Local) -> None:
    path = pickled(folder, tmp_path / "old")
    with pytest.raises(InputError, match=r"Only safetensors are read.*--allow_pickle"):
        load_local(str(path))
    assert same_weights(load_local(str(path), allow_pickle=True), tiny_policy)


def test_pickled_adapters_are_refused(folder: Path, tmp_path: Path) -> None:
    path, _ = adapter(tmp_path / "adapter", folder)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin.*no safetensors.*--allow_pickle"):
        load_local(str(path))


def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "coded"
    shutil.copytree(folder, path)
    mark = tmp_path / "ran"
    (path / "odd.py").write_text(f"open({str(mark)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"}}
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"--trust_remote_code"):
        load_local(str(path))
    assert not mark.exists()


@pytest.mark.parametrize("missing", ["folder", "weights", "config"])
def test_a_folder_that_holds_no_model_is_refused(folder: Path, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model"
    if missing != "folder":
        shutil.copytree(folder, path)
        (path / {"weights": "model.safetensors", "config": "config.json"}[missing]).unlink()
    with pytest.raises(InputError, match=re.escape(f"model {str(path)!r}")):
        load_local(str(path))


def test_replies_to_one_chat_score_alike_alone_and_together(tiny_policy: Local) -> None:
    together = tiny_policy.logprob([CHATS[0]] * 3, REPLIES)
    alone = torch.cat([tiny_policy.logprob([CHATS[0]], [reply]) for reply in REPLIES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert tiny_policy.logprob([], []).shape == (0,)


def test_what_was_drawn_is_scored_by_its_own_tokens(tiny_policy: Local) -> None:
    """ "th" drawn as two letters reads back as one token; the draw's own two count."""
    letters = tuple(tiny_policy.tokenizer.convert_tokens_to_ids(["t", "h", "<end>"]))
    draw = Draw("th", letters)
    assert tiny_policy.encode(CHATS[0], [draw, "th"]).replies == (
        letters,
        tuple(tiny_policy.template.replies(["th"], bare=[False])[0]),
    )
    assert len(tiny_policy.template.replies(["th"], bare=[False])[0]) == 2
    assert tiny_policy.token_logprobs(CHATS[:1], [draw])[0].shape == (3,)
    for made in tiny_policy.sample(CHATS[:1], n=8, sampling=Sampling(max_new_tokens=8), rng=Rng(0))[0]:
        told = tiny_policy.token_logprobs(CHATS[:1], [made])[0]
        torch.testing.assert_close(told, torch.tensor(made.logprobs), rtol=1e-4, atol=1e-4)


def test_prompt_and_reply_are_the_template_s_own_conversation(tiny_policy: Local) -> None:
    rows = [{"role": "user", "content": "the hat"}, {"role": "assistant", "content": "in"}]
    whole = tiny_policy.tokenizer.apply_chat_template(rows, tokenize=False)
    tree = tiny_policy.encode(user("the hat"), ["in"])
    text = tiny_policy.tokenizer.decode([*tree.prompt, *tree.replies[0]])
    assert whole == text + "\n", "what follows the end of turn belongs to the next"


def test_a_model_without_a_template_answers_and_scores() -> None:
    policy = make_local(template=None)
    drawn = policy.sample(CHATS, n=2, sampling=Sampling(max_new_tokens=6), rng=Rng(0))
    assert all(len(draw.token_ids) <= 6 for row in drawn for draw in row)
    assert policy.logprob(CHATS, REPLIES).isfinite().all()


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_the_empty_chat_is_bare_text(template: str | None) -> None:
    policy = make_local(template=template)
    begin = policy.tokenizer.convert_tokens_to_ids("<begin>")
    text = tuple(policy.tokenizer("the hat", add_special_tokens=False).input_ids)
    tree = policy.encode((), ["the hat"])
    assert tree.prompt == (begin,)
    assert tree.replies == (text,), "no end of turn where there is no turn"
    with torch.no_grad():
        logits = policy.model(torch.tensor([[begin, *text]])).logits[0, :-1].log_softmax(-1)
    expected = logits.gather(1, torch.tensor(text)[:, None]).sum().double()
    torch.testing.assert_close(policy.logprob([()], ["the hat"])[0], expected, rtol=1e-4, atol=1e-4)


def test_trees_made_together_are_those_made_alone(tiny_policy: Local) -> None:
    chats, replies = [CHATS[0], (), CHATS[1]], [["in", Draw("th", (5, 6))], ["the hat"], []]
    alone = [tiny_policy.encode(chat, group) for chat, group in zip(chats, replies, strict=True)]
    assert tiny_policy.encode_many(chats, replies) == alone


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3", "qwen2", "phi3"])
def test_families_read_back_alike(architecture: str, tmp_path: Path, tiny_model: Callable[[str], Any]) -> None:
    policy = Local(tiny_model(architecture), make_tokenizer())
    policy.save(tmp_path)
    again = load(str(tmp_path))
    assert isinstance(again, Local)
    torch.testing.assert_close(again.logprob(CHATS, REPLIES), policy.logprob(CHATS, REPLIES), rtol=1e-5, atol=1e-5)
    assert again.fingerprint == policy.fingerprint


def test_dtype_is_kept(tmp_path: Path) -> None:
    policy = Local(make_model("llama", dtype=torch.bfloat16), make_tokenizer())
    policy.save(tmp_path)
    assert {tensor.dtype for tensor in load_local(str(tmp_path), dtype="auto").weights().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_local(str(tmp_path)).weights().values()} == {torch.float32}
