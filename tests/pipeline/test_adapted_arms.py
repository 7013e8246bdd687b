"""A comparison of full training, a part of it, and adapters: what is counted, saved and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small import write_judge, write_pairs
from tiny import make_local

from truing import load
from truing.core.errors import InputError
from truing.core.recipe import Recipe, parse
from truing.models.local import Local
from truing.pipeline.checking import check
from truing.pipeline.study import run

QUICK = {"learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 4}
ARMS: dict[str, Any] = {
    "full": [{"preference/dpo": QUICK}],
    "part": [{"preference/dpo": {**QUICK, "unfrozen_parameters": ["norm"]}}],
    "lora": [{"preference/dpo": {**QUICK, "lora_r": [1, 2]}}],
    "none": [{"preference/dpo": {**QUICK, "max_steps": 0}}],
}
TWO = {"lora/lora_r=1": 1, "lora/lora_r=2": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a folder, its matrices in whole blocks of 64 numbers."""
    folder = tmp_path_factory.mktemp("model")
    make_local(hidden_size=64, intermediate_size=128).save(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that another test computed is found."""
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))


def recipe(folder: Path, model: Path | str, arms: dict[str, Any], **more: Any) -> Recipe:
    raw = {
        "model": str(model),
        "data": {"pairs": write_pairs(folder)},
        "judge": write_judge(folder),
        "sampling": {"max_new_tokens": 4},
        "evaluate": {"prompts": [{"prompt": "Say rain."}, {"prompt": "Say ink."}], "draws": 2},
        "probes": ["kl", "cost"],
        "arms": arms,
        **more,
    }
    return parse(raw, name="adapted")


def trained(out: Path) -> dict[str, float]:
    """Arm -> what its training could change."""
    rows = [json.loads(line) for line in (out / "measures.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["arm"]: row["value"] for row in rows if row["probe"] == "cost.trained"}


def test_every_arm_counts_what_it_trains_and_saves_what_others_read(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    out = tmp_path / "out"
    run(recipe(tmp_path, model, ARMS), out)
    base = load(str(model))
    assert isinstance(base, Local)
    shapes = {name: tensor.shape for name, tensor in base.weights().items()}
    matrices = [sum(shape) for name, shape in shapes.items() if "proj" in name]
    assert trained(out) == {
        "base": 0,
        "none": 0,
        "full": sum(shape.numel() for shape in shapes.values()),
        "part": sum(shape.numel() for name, shape in shapes.items() if "norm" in name),
        **{name: rank * sum(matrices) for name, rank in TWO.items()},
    }
    assert not (out / "arms" / "full" / "adapter").exists()
    ids = torch.tensor([[5, 60, 70, 8]])
    for name in TWO:
        folder = out / "arms" / name
        assert "PeftModel.from_pretrained(base, " in (folder / "README.md").read_text(encoding="utf-8")
        told = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
        assert told["base_model_name_or_path"] == str(model)
        with torch.no_grad():
            merged = transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits
            plain = transformers.AutoModelForCausalLM.from_pretrained(model)
            adapted = PeftModel.from_pretrained(plain, folder / "adapter").eval()(ids).logits
        torch.testing.assert_close(adapted, merged, rtol=0, atol=1e-4)
        assert (base.model(ids).logits - merged).abs().max() > 0.01


def test_a_base_in_4_bits_from_recipe_to_artefact(model: Path, tmp_path: Path) -> None:
    arms = {"qlora": [{"preference/dpo": {**QUICK, "lora_r": 2}}], "best": [{"rerank/best_of_n": {"n": 2}}]}
    out = tmp_path / "out"
    run(recipe(tmp_path, model, arms, load_in_4bit=True), out)
    tuned, best = load(str(out / "arms" / "qlora")), load(str(out / "arms" / "best"))
    assert isinstance(tuned, Local)
    assert {tensor.dtype for tensor in tuned.weights().values()} == {torch.float32}
    behind = best.base  # type: ignore[attr-defined] # what was reranked, saved with the arm
    assert behind.fingerprint == load(str(model), load_in_4bit=True).fingerprint


@pytest.mark.parametrize(
    ("settings", "more", "said"),
    [
        ({"use_dora": True}, {}, r"arms.dpo\[0\]: use_dora is about adapters"),
        ({"lora_r": 2, "unfrozen_parameters": ["mlp"]}, {}, r"arms.dpo\[0\]: lora_r leaves every parameter"),
        ({"unfrozen_parameters": ["("]}, {}, r"arms.dpo\[0\]: unfrozen_parameters: '\(' is no regular"),
        ({}, {"load_in_4bit": True}, r"arms.dpo\[0\]: preference/dpo trains every weight, and load_in_4bit"),
        ({}, {"load_in_4bit": "yes"}, r"load_in_4bit: is 'yes'. Give true or false"),
    ],
)
def test_what_cannot_be_trained_is_known_before_a_model_loads(
    settings: dict[str, Any], more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    asked = recipe(tmp_path, "there-is-no-such-model", {"dpo": [{"preference/dpo": settings}]}, **more)
    with pytest.raises(InputError, match=said):
        check(asked)


def test_once_an_adapter_is_merged_every_weight_can_be_trained(tmp_path: Path) -> None:
    steps = [{"preference/dpo": {"lora_r": 2}}, "preference/dpo"]
    check(recipe(tmp_path, "there-is-no-such-model", {"two": steps}, load_in_4bit=True))
