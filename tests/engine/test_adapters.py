"""Adapters and frozen parameters: nothing is held twice, the algebra is the papers', and peft reads what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fitting import TREES, flat, train
from tiny import ARCHITECTURES, Notes, make_local, same_weights

from truing.core.errors import InputError
from truing.core.policy import Opening, user
from truing.core.run import Run
from truing.models import load_model
from truing.models.architecture import describe
from truing.models.local import Local
from truing.models.tabular import Tabular

LORA = Opening(lora_r=4, lora_alpha=12)
DORA = Opening(lora_r=4, lora_alpha=12, use_dora=True)
KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
EVERY = pytest.mark.parametrize("architecture", ARCHITECTURES)


def bytes_beside(module: torch.nn.Module, model: torch.nn.Module) -> int:
    """Bytes of a module's parameters that do not lie in the storage of a model's."""
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    new = [p for p in module.parameters() if p.untyped_storage().data_ptr() not in held]
    return sum(parameter.untyped_storage().nbytes() for parameter in new)


class TestMemory:
    @EVERY
    def test_only_the_adapters_are_new(self, architecture: str) -> None:
        """Two matrices of rank r for each matrix of a block, and not a byte more."""
        base = make_local(architecture)
        module = base.open(LORA).module
        matrices = [s for s in describe(base.model.config).slots if s.block is not None and s.matrix]
        assert len(matrices) >= 2 * 4
        wanted = sum(4 * sum(base.weights()[slot.name].shape) for slot in matrices)
        assert sum(p.numel() for p in module.parameters() if p.requires_grad) == wanted
        assert bytes_beside(module, base.model) == 4 * wanted

    def test_what_is_frozen_is_not_held_twice(self, tiny_policy: Local) -> None:
        module = tiny_policy.open(Opening(unfrozen_parameters=("mlp", r"\.0\..*norm"))).module
        chosen = {name for name, p in module.named_parameters() if p.requires_grad}
        wanted = {name for name in dict(tiny_policy.model.named_parameters()) if "mlp" in name}
        layer = "model.layers.0."
        assert chosen == wanted | {f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight"}
        assert bytes_beside(module, tiny_policy.model) == 4 * sum(
            p.numel() for p in module.parameters() if p.requires_grad
        )

    def test_every_weight_is_copied_where_every_weight_is_trained(self, tiny_policy: Local) -> None:
        module = tiny_policy.open().module
        assert all(parameter.requires_grad for parameter in module.parameters())
        assert bytes_beside(module, tiny_policy.model) == 4 * sum(p.numel() for p in tiny_policy.model.parameters())

    @pytest.mark.parametrize("settings", [{"lora_r": 4}, {"unfrozen_parameters": ("mlp",)}])
    def test_the_base_answers_meanwhile_and_owns_nothing_of_the_outcome(self, settings: dict[str, Any]) -> None:
        base, asked = make_local(), [user("the hat")]
        before, weights = base.logprob(asked, ["in"]), flat(base).clone()
        frozen = [parameter.requires_grad for parameter in base.model.parameters()]

        def loss(scores: Any, numbers: Any) -> Any:
            assert torch.equal(base.logprob(asked, ["in"]), before)
            return -scores.sums, {}

        tuned = train(base, loss=loss, **settings)
        assert not torch.equal(tuned.logprob(asked, ["in"]), before)
        assert [parameter.requires_grad for parameter in base.model.parameters()] == frozen
        assert all(parameter.grad is None for parameter in base.model.parameters())
        assert bytes_beside(tuned.model, base.model) == 4 * sum(p.numel() for p in base.model.parameters())
        with torch.no_grad():
            for parameter in tuned.model.parameters():
                parameter.zero_()
        assert torch.equal(flat(base), weights)


class TestAlgebra:
    @EVERY
    @KINDS
    def test_fresh_adapters_change_nothing(self, architecture: str, dora: bool) -> None:
        base = make_local(architecture)
        with torch.no_grad():
            got = base.open(DORA if dora else LORA).score(TREES).tokens
            wanted = base.scorer(TREES).tokens
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4 if dora else 0)

    def test_the_first_gradient_is_the_weights_own_times_the_other_matrix(self, tiny_policy: Local) -> None:
        """``W + s B A`` with ``B = 0``: ``dL/dB = s (dL/dW) A'`` and ``dL/dA = 0``."""
        lora, whole = tiny_policy.open(LORA), tiny_policy.open()
        for bench in (lora, whole):
            bench.score(TREES).tokens.sum().backward()
        name = "model.layers.1.mlp.down_proj"
        layer, weight = lora.module.get_submodule(name), whole.module.get_submodule(name).weight
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.testing.assert_close(second.grad, 3 * weight.grad @ first.detach().T, rtol=1e-4, atol=1e-4)
        assert not first.grad.any()

    @pytest.mark.parametrize("architecture", ["llama", "gpt2"])
    @KINDS
    def test_what_is_merged_is_the_papers_formula(self, architecture: str, dora: bool) -> None:
        """``W + s B A``; under DoRA each output's row is scaled to its magnitude (eq. 5 of arXiv:2402.09353)."""
        base = make_local(architecture)
        tuned = train(base, lora_r=4, lora_alpha=12, use_dora=dora, learning_rate=1e-2)
        assert tuned.adapter is not None
        files = dict(tuned.adapter.tensors)
        for name, before in base.weights().items():
            head = "base_model.model." + name.removesuffix(".weight")
            wanted = before
            if f"{head}.lora_A.weight" in files:
                rows = before.T if architecture == "gpt2" else before
                rows = rows + 3 * files.pop(f"{head}.lora_B.weight") @ files.pop(f"{head}.lora_A.weight")
                if dora:
                    magnitude = files.pop(f"{head}.lora_magnitude_vector")
                    rows = magnitude[:, None] * rows / rows.norm(dim=1, keepdim=True)
                wanted = rows.T if architecture == "gpt2" else rows
            torch.testing.assert_close(tuned.weights()[name], wanted, rtol=1e-4, atol=1e-5)
        assert files == {}

    def test_adapters_stay_precise_on_a_base_in_bfloat16(self) -> None:
        base = make_local(dtype=torch.bfloat16)
        bench = base.open(LORA)
        assert {p.dtype for p in bench.module.parameters() if p.requires_grad} == {torch.float32}
        tuned = train(base, lora_r=4)
        assert tuned.model.dtype == torch.bfloat16
        assert not same_weights(tuned, base)


class TestRandomness:
    def test_the_seed_decides_and_nobodys_stream_moves(self, tiny_policy: Local) -> None:
        torch.manual_seed(1)
        ambient = torch.get_rng_state()
        first = train(tiny_policy, run=Run(seed=5), lora_r=4)
        assert torch.equal(torch.get_rng_state(), ambient)
        torch.manual_seed(2)
        assert same_weights(train(tiny_policy, run=Run(seed=5), lora_r=4), first)
        bench, other = tiny_policy.open(LORA, 5).module, tiny_policy.open(LORA, 6).module
        name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
        assert not torch.equal(bench.get_parameter(name), other.get_parameter(name))


class TestFiles:
    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
    @KINDS
    def test_peft_and_transformers_read_what_is_saved(self, architecture: str, dora: bool, tmp_path: Path) -> None:
        from peft import PeftModel

        base = make_local(architecture)
        (tmp_path / "base").mkdir()
        base.save(tmp_path / "base")
        loaded = load_model(str(tmp_path / "base"))
        assert isinstance(loaded, Local)
        tuned, arm = train(loaded, lora_r=4, use_dora=dora, learning_rate=1e-2), tmp_path / "arm"
        arm.mkdir()
        tuned.save(arm)
        ids = torch.tensor([TREES[0].prompt + TREES[0].replies[0]])
        with torch.no_grad():
            whole = transformers.AutoModelForCausalLM.from_pretrained(arm)(ids).logits
            plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
            untuned = plain(ids).logits
            adapted = PeftModel.from_pretrained(plain, arm / "adapter").eval()(ids).logits
        torch.testing.assert_close(whole, tuned.model(ids).logits, rtol=0, atol=0)
        torch.testing.assert_close(adapted.log_softmax(-1), whole.log_softmax(-1), rtol=0, atol=1e-4)
        assert (untuned - whole).abs().max() > 0.1
        again, by_name = load_model(str(arm)), load_model(str(arm / "adapter"))  # the latter names its base itself
        assert again.fingerprint == tuned.fingerprint
        assert isinstance(by_name, Local)
        torch.testing.assert_close(flat(by_name), flat(tuned), rtol=0, atol=1e-5)

    def test_an_adapter_on_a_model_that_was_made_here_names_no_base(self, tiny_policy: Local, tmp_path: Path) -> None:
        tuned = train(train(tiny_policy, lora_r=2), lora_r=4)
        tuned.save(tmp_path)
        told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        assert told["base_model_name_or_path"] is None
        assert told["target_modules"] == sorted(told["target_modules"])


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"lora_r": 4, "unfrozen_parameters": ["mlp"]}, "lora_r leaves every parameter as it is.*Give one"),
            ({"use_dora": True}, "use_dora is about adapters, and lora_r = 0.*Set lora_r"),
            ({"lora_target_modules": ["q_proj"]}, "lora_target_modules is about adapters"),
            ({"lora_r": 4, "lora_target_modules": ["q_prjo"]}, "no layer is called 'q_prjo'. Did you mean 'q_proj'"),
            ({"lora_r": 4, "lora_target_modules": ["lm_head"]}, "'lm_head' is the embedding or the head"),
            ({"lora_r": 4, "lora_target_modules": ["self_attn"]}, "lora_target_modules: .*Name projections"),
            ({"unfrozen_parameters": ["mlp", "(", "mpl"]}, r"'\(' is no regular expression"),
            ({"unfrozen_parameters": ["mlp", "mpl"]}, "'mpl' is in no name"),
        ],
    )
    def test_what_cannot_be_trained(self, settings: dict[str, Any], said: str, tiny_policy: Local) -> None:
        with pytest.raises(InputError, match=said):
            train(tiny_policy, **settings)

    def test_chosen_targets_alone_are_adapted(self, tiny_policy: Local) -> None:
        tuned = train(tiny_policy, lora_r=4, lora_target_modules=["q_proj", "layers.1.mlp.up_proj"])
        before = tiny_policy.weights()
        moved = {name for name, tensor in tuned.weights().items() if not torch.equal(tensor, before[name])}
        layers = [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)]
        assert moved == {*layers, "model.layers.1.mlp.up_proj.weight"}

    def test_a_table_has_no_part(self) -> None:
        table = Tabular((user("q"),), ("a", "b"), torch.zeros(1, 2))
        for how in (LORA, Opening(unfrozen_parameters=("x",))):
            with pytest.raises(InputError, match="one parameter"):
                table.open(how)


class TestFrozen:
    def test_what_is_frozen_stays_and_the_rest_moves_as_always(self, tiny_policy: Local) -> None:
        """Adam moves each number by itself: one unclipped step of a part is that part of a step of all."""
        settings = {"max_steps": 1, "max_grad_norm": 0.0, "per_device_train_batch_size": 16}
        some = train(tiny_policy, unfrozen_parameters=[r"layers\.1"], **settings).weights()
        whole, before = train(tiny_policy, **settings).weights(), tiny_policy.weights()
        for name in before:
            torch.testing.assert_close(some[name], whole[name] if "layers.1" in name else before[name], rtol=0, atol=0)
            assert not torch.equal(whole[name], before[name])

    def test_trained_parameters_are_counted(self, tiny_policy: Local) -> None:
        shapes = {name: tensor.numel() for name, tensor in tiny_policy.weights().items()}
        assert tiny_policy.trained_parameters is None
        assert train(tiny_policy).trained_parameters == sum(shapes.values())
        some = train(tiny_policy, unfrozen_parameters=["norm"]).trained_parameters
        assert some == sum(count for name, count in shapes.items() if "norm" in name)
        assert train(tiny_policy, lora_r=1, lora_target_modules=["up_proj"]).trained_parameters == 2 * (32 + 48)


class TestResume:
    @KINDS
    def test_a_checkpoint_holds_what_is_trained_and_resumes_to_the_same_bits(
        self, dora: bool, tiny_policy: Local, tmp_path: Path
    ) -> None:
        from safetensors import safe_open

        settings = {"max_steps": 7, "save_steps": 2, "lora_r": 4, "use_dora": dora, "learning_rate": 1e-2}
        wanted = train(tiny_policy, **settings)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=Notes(stop_at=5)), **settings)
        with safe_open(tmp_path / "checkpoint" / "state.safetensors", framework="pt") as file:
            held = sum(file.get_tensor(key).numel() for key in file.keys() if key.startswith("weight."))  # noqa: SIM118 - no mapping
        assert held == wanted.trained_parameters
        notes = Notes()
        resumed = train(tiny_policy, run=Run(work=tmp_path, resume=True, log=notes), **settings)
        assert notes.said == ["  resuming at step 4 of 7"]
        assert same_weights(resumed, wanted)
