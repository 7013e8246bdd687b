"""Models that stay on the disk, merged by the same methods to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_local, make_tokenizer, same_weights

import truing
from truing.core.artefact import save_policy
from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.method import build, find
from truing.core.policy import Sampling, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.engine.shards import Shards
from truing.engine.tensors import STRETCH, Held
from truing.methods.merge import _blend
from truing.models.adapted import Adapted
from truing.models.stored import Stored, open_stored
from truing.pipeline.merging.table import METHODS

READ = Shards.read
MERGES = sorted({rules.name for rules in METHODS.values()} | {"merge/tsv", "merge/iso_c", "merge/extract_lora"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three small models on the disk."""
    root = tmp_path_factory.mktemp("stored")
    for seed in range(3):
        save_policy(make_local(seed=seed), root / str(seed))
    return [root / str(seed) for seed in range(3)]


@pytest.mark.parametrize("small", [0, _blend._SMALL], ids=["stretches", "whole"])
@pytest.mark.parametrize("name", MERGES)
def test_streamed_is_in_memory_bit_for_bit(
    name: str, small: int, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether small tensors are read once, for all that a method asks of them, or as large ones are."""
    monkeypatch.setattr(_blend, "_SMALL", small)
    count = 1 if find(name).counts[1] == 1 else 2  # type: ignore[attr-defined] # merging methods have it
    method = build(name)
    stored = [open_stored(str(folder)) for folder in folders]
    local = [truing.load(str(folder)) for folder in folders]
    lazy = method(stored[0], Evidence(donors={str(i): stored[i + 1] for i in range(count)}), Run(seed=3))
    held = method(local[0], Evidence(donors={str(i): local[i + 1] for i in range(count)}), Run(seed=3))
    assert isinstance(lazy, Stored)
    save_policy(lazy, tmp_path / "out")
    assert same_weights(truing.load(str(tmp_path / "out")), held)


@pytest.mark.parametrize(("name", "once"), [("slerp", True), ("ties", True), ("linear", False), ("dare_ties", False)])
def test_a_small_tensor_is_read_once_by_who_looks_twice(
    name: str, once: bool, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    monkeypatch.setattr(Shards, "read", lambda self, tensor: reads.append(tensor) or READ(self, tensor))
    base, donor = (open_stored(str(folder)) for folder in folders[:2])
    blend = build(f"merge/{name}")(base, Evidence(donors={"a": donor}), Run()).weights()
    tensor = "model.layers.0.mlp.up_proj.weight"
    for _ in blend.pieces(tensor):  # type: ignore[attr-defined] # it is lazy
        pass
    assert reads == [tensor] * 2 * once
    size = base.weights().spec(tensor).size
    plain = build("merge/linear")(base, Evidence(donors={"a": donor}), Run()).weights()
    assert blend.cost(tensor) - plain.cost(tensor) == 2 * size * once  # type: ignore[attr-defined] # it is lazy


def test_it_answers_as_the_model_in_memory(folders: list[Path], tmp_path: Path) -> None:
    donors = {"a": open_stored(str(folders[1]))}
    made = build("merge/linear")(open_stored(str(folders[0])), Evidence(donors=donors), Run())
    save_policy(made, tmp_path / "out")
    loaded, how = truing.load(str(tmp_path / "out")), Sampling(max_new_tokens=8)
    assert made.sample([user("the")], n=2, sampling=how, rng=Rng(0)) == loaded.sample(
        [user("the")], n=2, sampling=how, rng=Rng(0)
    )
    assert made.fingerprint == loaded.fingerprint


def test_transformers_loads_what_was_saved(folders: list[Path], tmp_path: Path) -> None:
    import transformers

    save_policy(open_stored(str(folders[1])), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = transformers.AutoModelForCausalLM.from_pretrained(folders[1])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), wanted.parameters(), strict=True))


def test_weights_of_another_shape_are_refused(folders: list[Path]) -> None:
    stored = open_stored(str(folders[0]))
    odd = {name: torch.zeros(1) for name in stored.weights()}
    with pytest.raises(InputError, match="do not fit"):
        stored.with_weights(odd)


def test_there_is_no_such_folder() -> None:
    with pytest.raises(InputError, match="is no folder"):
        open_stored("./nowhere")


PROGRAM = """
import resource, sys
sys.path[:0] = {path!r}
from pathlib import Path
from truing.core.evidence import Evidence
from truing.core.method import build
from truing.core.run import Run
from truing.models.stored import Stored
from truing.engine.shards import Shards
import torch
def stored(folder): return Stored(Path(folder), Shards(Path(folder)))
def peak():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) * 1024
a, b, c = (stored(f) for f in {folders!r})
torch.zeros(1 << 20).sort()
before = peak()
made = build({name!r})(a, Evidence(donors={{'b': b, 'c': c}}), Run())
Path({out!r}).mkdir()
made.save(Path({out!r}))
print(peak() - before, 'transformers' in sys.modules)
"""


@pytest.mark.parametrize("name", ["merge/ties"])
def test_memory_does_not_grow_with_the_tensors(name: str, tmp_path: Path) -> None:
    """Three models of 100 MB in one tensor: an outcome in less memory than one of them, and without transformers."""
    from truing.engine.stream import write

    size = 25_000_000
    folders = []
    for seed in range(3):
        folder = tmp_path / f"m{seed}"
        folder.mkdir()
        numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        write(Held({"w": numbers}), folder, truing.Run().log)
        (folder / "config.json").write_text("{}")
        folders.append(str(folder))
    program = PROGRAM.format(path=sys.path, folders=folders, name=name, out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    grown, loaded = done.stdout.split()
    assert int(grown) < 80_000_000
    assert loaded == "False"
    assert Shards(tmp_path / "out").spec("w").count == size > 50 * STRETCH


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


def test_the_tiny_tokenizer_is_saved_along(folders: list[Path], tmp_path: Path) -> None:
    save_policy(open_stored(str(folders[0])), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folders[0] / "tokenizer.json").read_bytes()
    assert len(make_tokenizer()) == len(truing.load(str(tmp_path / "out")).tokenizer)  # type: ignore[attr-defined] # it is a model
