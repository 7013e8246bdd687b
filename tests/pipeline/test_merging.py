"""mergekit's YAML as it is written: what each key does to the tensors, by sums written out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from merges import merge, model_folder, two, weights
from one_tensor import one

import truing
from truing.cli import main
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.run import Run
from truing.engine.shards import INDEX
from truing.engine.tensors import block
from truing.pipeline.merging.planning import plan
from truing.pipeline.merging.reading import parse_merge
from truing.pipeline.merging.table import METHODS

Q, DOWN = "model.layers.{}.self_attn.q_proj.weight", "model.layers.{}.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models of four blocks."""
    root = tmp_path_factory.mktemp("models")
    return [model_folder(root / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def tensors(models: list[str]) -> list[dict[str, torch.Tensor]]:
    return [weights(model) for model in models]


def test_linear_is_the_mean_by_weight(
    models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    rows = [{"model": m, "parameters": {"weight": w}} for m, w in zip(models, (1.0, 0.3, 0.5), strict=True)]
    made = merge(tmp_path, {"models": rows, "merge_method": "linear", "dtype": "float32"})
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, sum(w * t[name] for w, t in zip((1, 0.3, 0.5), tensors, strict=True)) / 1.8)


def test_a_list_of_numbers_runs_over_the_depth_and_filters_choose(
    models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """Weights 0 .. 1 over four blocks for attention, 0.5 for the MLP, 2 elsewhere."""
    weight = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.5}, {"value": 2.0}]
    rows = [{"model": models[1], "parameters": {"weight": weight}}]
    made = merge(tmp_path, {"models": rows, "merge_method": "task_arithmetic", "base_model": models[0]})
    for name, tensor in made.items():
        number = block(name)
        share = 2.0 if number is None or "norm" in name else 0.5 if "mlp" in name else number / 3
        own, other = tensors[0][name], tensors[1][name]
        torch.testing.assert_close(tensor, own + share * (other - own), msg=name)


def test_the_nearest_level_counts(models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """Source before slice before file."""

    def part(begin: int, own: Any, parameters: dict[str, float]) -> dict[str, Any]:
        source = {
            "model": models[1],
            "layer_range": [begin, begin + 1],
            **({"parameters": {"weight": own}} if own else {}),
        }
        base = {"model": models[0], "layer_range": [begin, begin + 1]}
        return {"sources": [base, source], **({"parameters": parameters} if parameters else {})}

    slices = [part(0, 0.1, {"weight": 0.2}), part(1, None, {"weight": 0.2}), part(2, None, {}), part(3, 0.4, {})]
    raw = {"slices": slices, "merge_method": "task_arithmetic", "base_model": models[0], "parameters": {"weight": 0.3}}
    made = merge(tmp_path, raw)
    for number, share in enumerate((0.1, 0.2, 0.3, 0.4)):
        name = Q.format(number)
        torch.testing.assert_close(made[name], tensors[0][name] + share * (tensors[1][name] - tensors[0][name]))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_as_ours_does(
    method: str, models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """One matrix of each merge against our method on the same tensors in memory."""
    single = METHODS[method].models == (1, 1)
    rules = METHODS[method]
    each = {name: 0.6 for name in rules.each if name in ("weight", "density")}
    shared = {"t": 0.3} if "t" in rules.shared else {}
    rows = [{"model": m, "parameters": dict(each)} for m in (models[1:2] if single else models[1:])]
    raw: dict[str, Any] = {"models": rows, "merge_method": method, "parameters": shared}
    if rules.base == "needed":
        raw["base_model"] = models[0]
    made = merge(tmp_path, raw, seed=4)
    mergekits = {**rules.shared, **each, **shared}
    for name in (Q.format(2), DOWN.format(1), "model.norm.weight"):
        torch.testing.assert_close(made[name], one(method, name, tensors, mergekits, seed=4), rtol=1e-5, atol=1e-6)


def test_types(models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """``dtype`` is what is written unless ``out_dtype`` says otherwise; it is rounded once, at the end."""
    exact = merge(tmp_path / "exact", two(models, "task_arithmetic", parameters={"weight": 0.3}))
    for keys, kind in (({"dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float32", "out_dtype": "float16"}, "float16")):
        made = merge(tmp_path / kind, two(models, "task_arithmetic", parameters={"weight": 0.3}, **keys))
        assert all(torch.equal(made[name], exact[name].to(getattr(torch, kind))) for name in exact)
        config = json.loads((tmp_path / kind / "out" / "config.json").read_text())
        assert config.get("dtype", config.get("torch_dtype")) == kind
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}
    made = merge(tmp_path / "double", two(models, "task_arithmetic", parameters={"weight": 0.3}, dtype="float64"))
    wide = [{name: tensor.double() for name, tensor in part.items()} for part in tensors]
    name = Q.format(0)
    wanted = wide[0][name] + 0.3 * (wide[1][name] + wide[2][name] - 2 * wide[0][name])
    torch.testing.assert_close(made[name], wanted, rtol=1e-14, atol=1e-14)


class TestSlices:
    def test_blocks_are_stacked_and_renumbered(
        self, models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path
    ) -> None:
        slices = [
            {"sources": [{"model": models[0], "layer_range": [0, 3]}]},
            {"sources": [{"model": models[1], "layer_range": [1, 4]}]},
        ]
        made = merge(tmp_path, {"slices": slices, "merge_method": "passthrough"})
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["num_hidden_layers"] == 6
        for number, (model, place) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]):
            for shape in (Q, DOWN):
                assert torch.equal(made[shape.format(number)], tensors[model][shape.format(place)])
        assert torch.equal(made["model.embed_tokens.weight"], tensors[0]["model.embed_tokens.weight"])
        assert torch.equal(made["lm_head.weight"], tensors[1]["lm_head.weight"])
        loaded = truing.load(str(tmp_path / "out"))
        assert len(loaded.model.model.layers) == 6  # type: ignore[attr-defined] # it is a model

    def test_scales_by_filter(self, models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path) -> None:
        scale = {"scale": [{"filter": "down_proj", "value": 0.5}, {"value": 1.0}]}
        slices = [{"sources": [{"model": models[0], "layer_range": [0, 4], "parameters": scale}]}]
        made = merge(tmp_path, {"slices": slices, "merge_method": "passthrough"})
        for name, tensor in made.items():
            assert torch.equal(tensor, tensors[0][name] * (0.5 if "down_proj" in name else 1.0))

    def test_lists_of_the_configuration_follow_their_blocks(self, tmp_path: Path) -> None:
        kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2}
        model = model_folder(tmp_path / "m", 0, "gemma2", **kinds)
        slices = [{"sources": [{"model": model, "layer_range": part}]} for part in ([0, 1], [2, 3], [1, 3])]
        merge(tmp_path, {"slices": slices, "merge_method": "passthrough"})
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["layer_types"] == [kinds["layer_types"][i] for i in (0, 2, 1, 2)]
        truing.load(str(tmp_path / "out"))

    def test_modules(self, models: list[str], tmp_path: Path) -> None:
        slices = [{"sources": [{"model": m, "layer_range": [0, 4]} for m in models[:2]]}]
        plain = {"slices": slices, "merge_method": "slerp", "base_model": models[0]}
        within = {
            "modules": {"default": {"slices": slices, "parameters": {"t": 0.3}}},
            "merge_method": "slerp",
            "base_model": models[0],
        }
        left = merge(tmp_path / "a", {**plain, "parameters": {"t": 0.3}})
        right = merge(tmp_path / "b", within)
        assert all(torch.equal(left[name], right[name]) for name in left | right)


class TestTied:
    def test_no_head_is_invented(self, tmp_path: Path) -> None:
        folders = [model_folder(tmp_path / str(seed), seed, "qwen2") for seed in range(2)]
        made = merge(
            tmp_path,
            {
                "models": [{"model": folders[1]}],
                "merge_method": "slerp",
                "base_model": folders[0],
                "parameters": {"t": 0.5},
            },
        )
        assert "lm_head.weight" not in made
        loaded = truing.load(str(tmp_path / "out"))
        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight  # type: ignore[attr-defined] # it is a model

    def test_a_tied_donors_head_is_its_embedding(
        self, models: list[str], tensors: list[dict[str, torch.Tensor]], tmp_path: Path
    ) -> None:
        tied = model_folder(tmp_path / "tied", 5, tie_word_embeddings=True)
        assert "lm_head.weight" not in weights(tied)
        rows = [{"model": tied, "parameters": {"weight": 1.0}}]
        made = merge(tmp_path, {"models": rows, "merge_method": "task_arithmetic", "base_model": models[0]})
        torch.testing.assert_close(
            made["lm_head.weight"], weights(tied)["model.embed_tokens.weight"], rtol=1e-5, atol=1e-6
        )


def test_an_adapter_is_applied_on_the_fly(models: list[str], tmp_path: Path) -> None:
    """As ``model+adapter``, and as an adapter's folder that names its model."""
    import peft

    base = truing.load(models[0])
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(base.model, config)  # type: ignore[attr-defined] # it is a model
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    model.peft_config["default"].base_model_name_or_path = models[0]
    model.save_pretrained(str(tmp_path / "adapter"))
    wanted = dict(model.merge_and_unload().named_parameters())
    for i, reference in enumerate((f"{models[0]}+{tmp_path / 'adapter'}", str(tmp_path / "adapter"))):
        made = merge(tmp_path / str(i), {"models": [{"model": reference}], "merge_method": "passthrough"})
        assert {tensor.dtype for tensor in made.values()} == {torch.float32}
        for name, tensor in made.items():
            torch.testing.assert_close(tensor, wanted[name].detach(), rtol=1e-5, atol=1e-6)


def test_the_command_line(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "merge.yml", tmp_path / "out"
    file.write_text(yaml.safe_dump(two(models, "ties", parameters={"weight": 1.0, "density": 0.4})))
    assert main(["check", str(file)]) == 0
    assert "no faults" in capsys.readouterr().out
    assert main(["run", str(file), "--out", str(out), "--max_shard_size", "40KB", "--seed", "3"]) == 0
    assert (out / INDEX).exists()
    assert (out / "README.md").read_text().startswith("---\nbase_model:")
    donors = {str(i): truing.load(model) for i, model in enumerate(models[1:])}
    held = build("merge/ties", density=0.4)(truing.load(models[0]), Evidence(donors=donors), Run())
    made = truing.load(str(out)).weights()  # type: ignore[attr-defined] # it is a model
    assert all(torch.equal(made[name], tensor) for name, tensor in held.weights().items())
    assert main(["run", str(file), "--out", str(out)]) == 2
    assert main(["run", str(file), "--out", str(out), "--resume", "--max_shard_size", "40KB", "--seed", "3"]) == 0
    assert main(["run", str(file), "--out", str(tmp_path / "o"), "--model", "x", "--density", "1"]) == 2
    told = capsys.readouterr().err
    assert "--model: is not for a merge" in told
    assert "has no field 'density'" in told


def test_no_model_and_no_training_stack_is_loaded_to_merge(models: list[str], tmp_path: Path) -> None:
    file = tmp_path / "merge.yml"
    file.write_text(yaml.safe_dump(two(models, "dare_ties", parameters={"weight": 1.0, "density": 0.5})))
    words = ["run", str(file), "--out", str(tmp_path / "out")]
    heavy = {"transformers", "peft", "accelerate", "datasets", "huggingface_hub", "scipy"}
    program = f"import sys; from truing.cli import main; print(main({words!r}), *({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"


def test_a_plan_reads_no_weight(models: list[str]) -> None:
    """All that is decided before any work begins is decided from headers."""
    made = plan(parse_merge({**two(models, "slerp", parameters={"t": [0, 1]}), "models": [{"model": models[1]}]}))
    assert len(made.blend) == len(weights(models[0]))
    depths = {part.depth for part in made.blend.parts.values()}
    assert sorted(depths) == pytest.approx([0, 1 / 3, 2 / 3, 1])
