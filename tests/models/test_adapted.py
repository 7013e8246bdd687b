"""Weights with an adapter that is applied when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import make_local

from truing.core.artefact import save_policy
from truing.core.errors import InputError
from truing.engine.shards import Shards
from truing.models.adapted import Adapted


class TestAdapters:
    """Adapters applied on the fly, against peft's own merging."""

    @pytest.mark.parametrize("kind", ["plain", "rslora", "dora", "patterns", "gpt2", "embedding"])
    def test_what_is_read_is_what_peft_merges(self, kind: str, tmp_path: Path) -> None:
        import peft

        base = make_local("gpt2" if kind == "gpt2" else "llama")
        save_policy(base, tmp_path / "base")
        modules = {"gpt2": ["c_attn", "c_fc"], "embedding": ["embed_tokens", "q_proj"]}.get(
            kind, ["q_proj", "down_proj"]
        )
        more = {
            "rslora": {"use_rslora": True},
            "dora": {"use_dora": True},
            "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 7}},
            "gpt2": {"fan_in_fan_out": True},
        }.get(kind, {})
        config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=modules, task_type="CAUSAL_LM", **more)
        torch.manual_seed(0)
        model = peft.get_peft_model(base.model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
        wanted = dict(model.merge_and_unload().named_parameters())
        read = Adapted(Shards(tmp_path / "base"), tmp_path / "adapter")
        assert sum(name in read.parts for name in read) >= 4 or kind == "embedding"
        for name in read:
            torch.testing.assert_close(read[name], wanted[name].detach(), rtol=1e-5, atol=1e-6)

    def test_another_models_adapter_is_refused(self, tmp_path: Path) -> None:
        import peft

        config = peft.LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM")
        peft.get_peft_model(make_local(hidden_size=16).model, config).save_pretrained(str(tmp_path / "adapter"))
        save_policy(make_local(), tmp_path / "base")
        with pytest.raises(InputError, match="its adapter"):
            Adapted(Shards(tmp_path / "base"), tmp_path / "adapter")
