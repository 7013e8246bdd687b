"""What is wrong with a merge is told before any work, with its place and mend; nothing half written is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merges import merge, model_folder, two, weights
from safetensors.torch import save_file

from truing.core.errors import InputError
from truing.pipeline.merging.reading import parse_merge


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("models")
    return [model_folder(root / str(seed), seed) for seed in range(3)]


def faults(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as told:
        parse_merge(raw)
    return [str(fault) for fault in told.value.faults]


WEIGHTED = {"model": "m", "parameters": {"weight": 1.0}}
FINE: dict[str, Any] = {"merge_method": "linear", "models": [WEIGHTED]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"merge_method": "tie"}, "merge_method: there is no 'tie'. Did you mean 'ties'?"),
        ({"merge_method": "evolve"}, "merge_method: there is no 'evolve'. Known: arcee_fusion"),
        ({"modle": 1}, "modle: is not known here. Did you mean 'modules'?"),
        ({"slices": [{}]}, "has models and slices. Give one of models, slices and modules."),
        ({"models": None}, "has no models. Give one of models, slices and modules."),
        ({"models": [{"modell": "m"}]}, "models[0].modell: is not known here. Did you mean 'model'?"),
        ({"models": [{**WEIGHTED, "layer_range": [0, 1]}]}, "models[0].layer_range: is not known here."),
        ({"dtype": "float8"}, "dtype: is 'float8'. Give one of float32, float16, bfloat16, float64."),
        ({"parameters": {"densty": 1}}, "parameters.densty: is no parameter of linear. Known: normalize, weight."),
        ({"parameters": {"weight": [1, {"value": 2}]}}, "parameters.weight: mixes values and filters"),
        ({"parameters": {"weight": [{"filter": "x"}]}}, "parameters.weight[0]: has the keys ['filter']"),
        (
            {"models": [{"model": "m", "parameters": {"normalize": True}}]},
            "models[0].parameters.normalize: is one of the merge, not of a model.",
        ),
        ({"tokenizer_source": "base", "tokenizer": {}}, "tokenizer: stands beside tokenizer_source."),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "tokenizer.pad_to_multiple_of: is 0."),
        ({"chat_template": "chatml"}, "chat_template: is 'chatml'. Give 'auto' or the template itself"),
        ({"models": [{"model": {"model": "m", "override_architecture": "X"}}]}, "which is not supported"),
        ({"modules": {"a": {}, "b": {}}, "models": None}, "Models of several modules are not merged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(changes: dict[str, Any], told: str) -> None:
    parse_merge(FINE)
    assert any(told in fault for fault in faults({**FINE, **changes})), faults({**FINE, **changes})


def test_all_at_once() -> None:
    assert len(faults({**FINE, "dtype": "x", "out_dtype": "y", "more": 1})) == 3


@pytest.mark.parametrize("layers", [[0], [2, 2], [3, 1], "all", [0.0, 1.0], [-1, 2]])
def test_ranges_of_layers(layers: Any) -> None:
    raw = {"merge_method": "passthrough", "slices": [{"sources": [{"model": "m", "layer_range": layers}]}]}
    assert any("layer_range: is" in fault for fault in faults(raw))


def test_ranges_of_one_length() -> None:
    sources = [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 3]}]
    assert any(
        "different numbers of layers" in f for f in faults({"merge_method": "slerp", "slices": [{"sources": sources}]})
    )


@pytest.mark.parametrize(
    ("method", "more", "told"),
    [
        ("slerp", {"parameters": {"t": 0.5}}, "slerp takes 1 model beside the base, and there are 2"),
        ("ties", {}, "'weight' is missing at"),
        ("ties", {"base_model": None, "parameters": {"weight": 1}}, "ties needs a base"),
        ("model_stock", {"models": 1}, "model_stock takes at least 2 models beside the base, and there are 1"),
        ("linear", {"parameters": {"weight": 1}}, "is the base and not among the models"),
        ("passthrough", {}, "passthrough takes 1 model, and there are 3"),
        ("task_arithmetic", {"parameters": {"weight": "much"}}, "weight = "),
        ("dare_ties", {"parameters": {"weight": 1, "density": 2.0}}, "density = "),
    ],
)
def test_what_does_not_fit_the_method(
    method: str, more: dict[str, Any], told: str, models: list[str], tmp_path: Path
) -> None:
    count = more.pop("models", 2)
    raw = {**two(models, method), **more}
    raw["models"] = raw["models"][:count]
    with pytest.raises(InputError) as error:
        merge(tmp_path, {key: value for key, value in raw.items() if value is not None})
    assert told in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["merge.yml"]


def test_a_range_beyond_the_model(models: list[str], tmp_path: Path) -> None:
    raw = {"merge_method": "passthrough", "slices": [{"sources": [{"model": models[0], "layer_range": [2, 9]}]}]}
    with pytest.raises(InputError, match=r"ends at 9, and .* has 4 blocks"):
        merge(tmp_path, raw)


class TestModels:
    """Damaged and unlike models."""

    @pytest.fixture
    def copies(self, models: list[str], tmp_path: Path) -> list[str]:
        return [str(shutil.copytree(model, tmp_path / f"m{i}")) for i, model in enumerate(models)]

    def refused(self, folders: list[str], tmp_path: Path, told: str) -> None:
        with pytest.raises(InputError, match=told):
            merge(tmp_path / "run", two(folders, "task_arithmetic", parameters={"weight": 1.0}))
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["merge.yml"]

    def test_cut_off(self, copies: list[str], tmp_path: Path) -> None:
        file = Path(copies[2]) / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        self.refused(copies, tmp_path, r"m2/model\.safetensors: has \d+ bytes and its header speaks of")

    def test_a_missing_tensor(self, copies: list[str], tmp_path: Path) -> None:
        tensors = weights(copies[1])
        del tensors["model.norm.weight"]
        save_file(tensors, Path(copies[1]) / "model.safetensors")
        self.refused(copies, tmp_path, r"m1: lacks 1 tensors that .* has, 'model\.norm\.weight' first")

    def test_a_tensor_too_many(self, copies: list[str], tmp_path: Path) -> None:
        save_file({**weights(copies[1]), "more": torch.zeros(1)}, Path(copies[1]) / "model.safetensors")
        self.refused(copies, tmp_path, "m1: has 1 tensors that .* lacks, 'more' first")

    def test_another_shape(self, copies: list[str], tmp_path: Path) -> None:
        tensors = weights(copies[1])
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(9, 32)
        save_file(tensors, Path(copies[1]) / "model.safetensors")
        self.refused(copies, tmp_path, r"up_proj.weight: is \(48, 32\) in .*, and \(9, 32\) in .*m1")

    def test_another_architecture(self, copies: list[str], tmp_path: Path) -> None:
        copies[1] = model_folder(tmp_path / "other", 0, "qwen2")
        self.refused(
            copies, tmp_path, "other: is of another architecture than .*: model_type 'qwen2' instead of 'llama'"
        )

    def test_another_width(self, copies: list[str], tmp_path: Path) -> None:
        copies[1] = model_folder(tmp_path / "other", 0, hidden_size=16)
        self.refused(copies, tmp_path, "hidden_size 16 instead of 32")

    def test_no_configuration(self, copies: list[str], tmp_path: Path) -> None:
        (Path(copies[0]) / "config.json").unlink()
        self.refused(copies, tmp_path, "has no config.json")

    def test_pickles(self, copies: list[str], tmp_path: Path) -> None:
        (Path(copies[0]) / "model.safetensors").rename(Path(copies[0]) / "pytorch_model.bin")
        self.refused(copies, tmp_path, "holds no safetensors, only pytorch_model.bin")

    def test_every_damaged_model_is_told(self, copies: list[str], tmp_path: Path) -> None:
        for folder in copies[1:]:
            (Path(folder) / "model.safetensors").write_bytes(b"x")
        with pytest.raises(InputError) as told:
            merge(tmp_path / "run", two(copies, "task_arithmetic", parameters={"weight": 1.0}))
        assert len(told.value.faults) == 2

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite(self, value: float, copies: list[str], tmp_path: Path) -> None:
        name = "model.layers.2.mlp.up_proj.weight"
        tensors = weights(copies[1])
        tensors[name][3, 4] = value
        save_file(tensors, Path(copies[1]) / "model.safetensors")
        raw = two(copies, "task_arithmetic", parameters={"weight": 1.0})
        with pytest.raises(InputError, match=f"m1: {name} holds numbers that are not finite"):
            merge(tmp_path / "run", raw)
        assert not (tmp_path / "run" / "out").exists()
        made = merge(tmp_path / "allowed", raw, allow_nan=True)
        assert not bool(torch.isfinite(made[name][3, 4]))

    def test_infinities_that_cancel_out_are_not_finite(self, copies: list[str], tmp_path: Path) -> None:
        tensors = weights(copies[0])
        name = next(iter(tensors))
        tensors[name].view(-1)[:2] = torch.tensor([float("inf"), float("-inf")])
        save_file(tensors, Path(copies[0]) / "model.safetensors")
        with pytest.raises(InputError, match="holds numbers that are not finite"):
            merge(tmp_path / "run", two(copies, "task_arithmetic", parameters={"weight": 0.0}))

    def test_numbers_whose_sum_is_too_large_are_fine(self, copies: list[str], tmp_path: Path) -> None:
        tensors = weights(copies[0])
        name = "model.layers.2.mlp.up_proj.weight"
        tensors[name][3, :4] = 3e38
        save_file(tensors, Path(copies[0]) / "model.safetensors")
        made = merge(tmp_path / "run", two(copies, "task_arithmetic", parameters={"weight": 0.0}))
        assert torch.equal(made[name], tensors[name])

    def test_numbers_too_large_for_the_type_that_is_written(self, copies: list[str], tmp_path: Path) -> None:
        raw = two(copies, "task_arithmetic", parameters={"weight": 1e6}, out_dtype="float16")
        with pytest.raises(InputError, match=r"is not finite in torch.float16, though its sources are"):
            merge(tmp_path / "run", raw)


def test_no_room_on_the_disk(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")(10, 9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="GB free, and"):
        merge(tmp_path, two(models, "task_arithmetic", parameters={"weight": 1.0}))
    assert [path.name for path in tmp_path.iterdir()] == ["merge.yml"]


def test_integers_are_the_bases(models: list[str], tmp_path: Path) -> None:
    folders = [str(shutil.copytree(model, tmp_path / f"m{i}")) for i, model in enumerate(models)]
    for i, folder in enumerate(folders):
        save_file({**weights(folder), "steps": torch.tensor([i])}, Path(folder) / "model.safetensors")
    made = merge(
        tmp_path / "run",
        two(folders, "linear", base_model=None, parameters={"weight": 1.0}, dtype="bfloat16") | {"base_model": None},
    )
    assert made["steps"].tolist() == [1]
    assert made["steps"].dtype == torch.int64


def test_the_record_says_what_it_was_made_from(models: list[str], tmp_path: Path) -> None:
    merge(tmp_path, two(models, "task_arithmetic", parameters={"weight": 1.0}), seed=5)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert sorted(record["inputs"]) == sorted(models)
    assert record["seed"] == 5
    assert record["merge"]["merge_method"] == "task_arithmetic"
