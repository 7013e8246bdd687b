"""A base in 4 bits: it answers, adapters are trained on it, and what they make is a model in full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from fitting import TREES, train
from tiny import make_local, same_weights

from truing.core.errors import InputError
from truing.core.policy import Opening, user
from truing.models import load_model
from truing.models.local import Local, load_local

KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
ASKED = [user("the hat"), user("why")]
REPLIES = ["in", "then thin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose matrices are whole blocks of 64 numbers."""
    path = tmp_path_factory.mktemp("whole")
    make_local(hidden_size=64, intermediate_size=128).save(path)
    return path


@pytest.fixture(scope="module")
def packed(folder: Path) -> Local:
    """The same in 4 bits."""
    policy = load_model(str(folder), load_in_4bit=True)
    assert isinstance(policy, Local)
    return policy


def test_only_the_projections_of_blocks_are_in_4_bits(packed: Local, folder: Path) -> None:
    whole = load_local(str(folder))
    for name, tensor in whole.weights().items():
        held = packed.model.get_parameter(name)
        if "proj" in name:
            assert (held.dtype, held.numel()) == (torch.uint8, tensor.numel() // 2)
        else:
            assert torch.equal(held, tensor)


def test_it_answers_by_the_numbers_that_its_bits_stand_for(packed: Local, folder: Path) -> None:
    """bitsandbytes' own dequantised weights, in transformers' own model; and they are not the original's."""
    whole = load_local(str(folder))
    from bitsandbytes.functional import dequantize_4bit

    far = whole.logprob(ASKED, REPLIES)
    numbers = {
        name: dequantize_4bit(held.data, held.quant_state) if held.dtype == torch.uint8 else held.detach()
        for name, held in packed.model.named_parameters()
    }
    wanted = whole.with_weights(numbers).logprob(ASKED, REPLIES)
    torch.testing.assert_close(packed.logprob(ASKED, REPLIES), wanted, rtol=0, atol=1e-3)
    assert (far - wanted).abs().max() > 0.1
    assert packed.scorer.layout == "packed"


@KINDS
def test_adapters_are_all_that_is_new_and_change_nothing_at_first(dora: bool, packed: Local) -> None:
    bench = packed.open(Opening(lora_r=4, use_dora=dora))
    held = {parameter.data_ptr() for parameter in packed.model.parameters()}
    new = {name for name, p in bench.module.named_parameters() if p.data_ptr() not in held}
    assert new == {name for name, p in bench.module.named_parameters() if p.requires_grad}
    states = [p.quant_state for p in packed.model.parameters() if p.dtype == torch.uint8]
    assert {id(p.quant_state) for p in bench.module.parameters() if p.dtype == torch.uint8} == set(map(id, states))
    with torch.no_grad():
        torch.testing.assert_close(bench.score(TREES).tokens, packed.scorer(TREES).tokens, rtol=0, atol=1e-4)


@KINDS
def test_what_is_trained_is_a_model_in_full_and_an_adapter_for_the_4_bits(
    dora: bool, packed: Local, folder: Path, tmp_path: Path
) -> None:
    """peft on transformers' own model in 4 bits, with the adapter's folder, says what the merged model says."""
    from peft import PeftModel

    print_before = packed.fingerprint
    tuned = train(packed, lora_r=4, use_dora=dora, learning_rate=1e-2, gradient_checkpointing=True)
    vars(packed).pop("fingerprint")
    assert packed.fingerprint == print_before
    assert {tensor.dtype for tensor in tuned.weights().values()} == {torch.float32}
    tuned.save(tmp_path)
    again = load_model(str(tmp_path))
    assert again.fingerprint == tuned.fingerprint
    ids = torch.tensor([TREES[0].prompt + TREES[0].replies[0]])
    with torch.no_grad():
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        base = load_local(str(folder), load_in_4bit=True).model
        untuned = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits
    torch.testing.assert_close(adapted.log_softmax(-1), plain.log_softmax(-1), rtol=0, atol=1e-3)
    assert (untuned - plain).abs().max() > 0.1


def test_a_pass_without_gradient_leaves_the_weights_as_they_lie(packed: Local) -> None:
    """Some processors' kernels would pack them anew in place, after which nothing could be trained on them."""
    before = [p.detach().clone() for p in packed.model.parameters()]
    packed.logprob(ASKED, REPLIES)
    assert all(torch.equal(p, old) for p, old in zip(packed.model.parameters(), before, strict=True))
    layers = [m for m in packed.model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    assert layers
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_it_saves_and_loads_in_4_bits(packed: Local, tmp_path: Path) -> None:
    packed.save(tmp_path)
    again = load_model(str(tmp_path))
    assert isinstance(again, Local)
    assert again.fingerprint == packed.fingerprint
    torch.testing.assert_close(again.logprob(ASKED, REPLIES), packed.logprob(ASKED, REPLIES), rtol=0, atol=1e-6)
    scales = [
        {id(state) for module in model.modules() if (state := getattr(module, "quant_state", None)) is not None}
        for model in (again.model, again.open(Opening(lora_r=4)).module)
    ]
    assert scales[0] == scales[1] != set()  # layers of a model that was saved so refer to their scales too


def test_the_scales_of_the_bits_are_in_the_fingerprint(packed: Local, folder: Path) -> None:
    other = load_local(str(folder), load_in_4bit=True)
    assert other.fingerprint == packed.fingerprint
    vars(other).pop("fingerprint")
    other.model.get_parameter("model.layers.0.mlp.up_proj.weight").quant_state.offset.add_(0.5)
    assert other.fingerprint != packed.fingerprint


class TestRefusals:
    def test_training_every_weight(self, packed: Local) -> None:
        with pytest.raises(InputError, match=r"cannot be trained\. Set lora_r"):
            train(packed)

    def test_merging(self, packed: Local) -> None:
        with pytest.raises(InputError, match=r"are held in 4 bits.*without load_in_4bit"):
            packed.weights()

    def test_an_adapter_that_would_be_rounded(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Save the merged model first"):
            load_local(str(folder), adapter=str(tmp_path), load_in_4bit=True)

    def test_a_machine_without_bitsandbytes(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(InputError, match=r"load_in_4bit: bitsandbytes is not there.*truing\[quant\]"):
            load_local(str(folder), load_in_4bit=True)


def test_the_seed_decides_here_too(packed: Local) -> None:
    assert same_weights(train(packed, lora_r=4), train(packed, lora_r=4))
