"""Arms as tasks of a local Ray cluster: the measures of a run in one process, also where a worker is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small import JUDGE, comparison
from tiny import make_local

from truing.core.errors import Fault, InputError, RunError
from truing.core.recipe import Recipe
from truing.pipeline.arm import Workshop
from truing.pipeline.asking import BASE, Asking
from truing.pipeline.inputs import Inputs
from truing.pipeline.study import run

COSTS = ("cost.seconds", "cost.memory")
KILLER = """
import os, pathlib, signal
def deadly(chats, replies):
    flag = pathlib.Path({flag!r})
    if os.getpid() != {driver} and {trained!r} and pathlib.Path({trained!r}).exists() and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return vowels(chats, replies)
"""
TRAINED = {"beta": 0.1, "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4}


def judged(folder: Path, out: Path) -> str:
    """A judge that kills the first worker that asks it once the trained arm is saved, and is sane from then on."""
    file = folder / "deadly.py"
    told = KILLER.format(flag=str(folder / "killed"), driver=os.getpid(), trained=str(out / "arms" / "dpo"))
    file.write_text(JUDGE + told, encoding="utf-8")
    return f"python:{file}:deadly"


def small(folder: Path, model: Path, judge: str, **changed: Any) -> Recipe:
    """Training, a merge of what was trained, and reranking of the base; compared with each other."""
    arms = {
        "dpo": [{"preference/dpo": TRAINED}],
        "best": [{"rerank/best_of_n": {"n": 2}}],
        "merge": {"donors": {"tuned": "arms.dpo"}, "steps": [{"merge/linear": {"weight": 0.5}}]},
    }
    probes = ["win_rate", "win_rate.dpo", "reward", "kl", "length", "cost"]
    return comparison(folder, model, **{"arms": arms, "probes": probes, "judge": judge, **changed})


def decided(out: Path) -> list[str]:
    """The measures that recipe and seed decide, byte for byte."""
    lines = (out / "measures.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if json.loads(line)["probe"] not in COSTS]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny model as a folder."""
    make_local().save(tmp_path)
    return tmp_path


def here_and_there(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in this process and on a cluster, each with a cache of its own, and compare what they leave."""
    outs = {name: folder / name for name in ("here", "there")}
    for name, out in outs.items():
        monkeypatch.setenv("TRUING_CACHE", str(folder / f"{name}_cache"))
        run(recipe, out, ray="local" if name == "there" else None)
    assert decided(outs["there"]) == decided(outs["here"])
    samples = [(out / "samples.jsonl").read_bytes() for out in outs.values()]
    assert samples[0] == samples[1]
    weights = [sorted(out.glob("arms/**/*.safetensors")) for out in outs.values()]
    assert weights[0]
    assert [file.read_bytes() for file in weights[0]] == [file.read_bytes() for file in weights[1]]
    told = [json.loads((out / "run.json").read_text(encoding="utf-8")) for out in outs.values()]
    assert [arm["name"] for arm in told[0]["arms"]] == [arm["name"] for arm in told[1]["arms"]]
    assert told[1]["status"] == "finished"


def test_a_cluster_measures_the_same_and_repeats_the_arm_of_a_killed_worker(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    arms = {"dpo": [{"preference/dpo": TRAINED}]}
    recipe = small(tmp_path, model, judged(tmp_path, tmp_path / "there"), arms=arms)
    here_and_there(recipe, tmp_path, monkeypatch)
    assert (tmp_path / "killed").exists(), "no worker was killed: nothing was tested"


@pytest.mark.slow
def test_shared_steps_are_made_once_for_all_arms(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    judge = judged(tmp_path, tmp_path / "nowhere")
    steps = [{"synthesize/best_and_worst": {"draws": 3}}, {"preference/ipo": {**TRAINED, "max_steps": 1}}]
    data = {"prompts": [{"prompt": f"Say {word}."} for word in ("rain", "salt", "wool", "ink")]}
    recipe = small(tmp_path, model, judge, steps=steps, data=data)
    here_and_there(recipe, tmp_path, monkeypatch)
    assert (tmp_path / "there" / "work" / "start" / "config.json").is_file()


@pytest.mark.slow
def test_an_arm_that_fails_says_why(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    arms = {"dpo": [{"preference/dpo": {**TRAINED, "learning_rate": 1e30, "warmup_ratio": 0.0}}]}
    recipe = small(tmp_path, model, judged(tmp_path, tmp_path / "nowhere"), arms=arms, probes=["length"])
    with pytest.raises(RunError, match="loss or gradient is not finite"):
        run(recipe, tmp_path / "out", ray="local")


def test_a_cluster_and_a_launcher_do_not_go_together(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="does not go with a launcher"):
        run(small(tmp_path, model, judged(tmp_path, tmp_path)), tmp_path / "out", ray="local")


def test_an_arm_waits_for_the_base_its_donors_and_the_opponents_before_it(model: Path, tmp_path: Path) -> None:
    recipe = small(tmp_path, model, judged(tmp_path, tmp_path), probes=["win_rate.merge", "win_rate.best"])
    shop = Workshop(recipe, Inputs(), None, tmp_path, tmp_path, False, None, None)  # type: ignore[arg-type] # unread
    dpo, best, merge = recipe.points
    assert [shop.needs(point) for point in (BASE, dpo, best, merge)] == [
        [],
        ["base"],
        ["base"],
        ["base", "dpo", "best"],
    ]


def test_arms_with_one_policy_behind_them_share_draws_and_no_others_do(model: Path, tmp_path: Path) -> None:
    train, best = {"preference/dpo": TRAINED}, {"rerank/best_of_n": {"n": [2, 7]}}
    other = {"preference/dpo": {**TRAINED, "beta": 0.2}}
    arms = {"plain": [train], "both": [train, best], "other": [other], "alone": [{"rerank/best_of_n": {"n": 5}}]}
    recipe = small(tmp_path, model, judged(tmp_path, tmp_path), arms=arms)
    asking = Asking(recipe, Inputs(), tmp_path, None)  # type: ignore[arg-type] # its log is not written to
    families = {p.name: [other.name for other in asking.alike(p)] for p in (BASE, *recipe.points)}
    trained, base = ["plain", "both/n=2", "both/n=7"], ["base", "alone"]
    assert families == {**dict.fromkeys(trained, trained), **dict.fromkeys(base, base), "other": ["other"]}
    needed = {p.name: asking.needed(p) for p in (BASE, *recipe.points)}
    assert needed == {**dict.fromkeys(trained, 8), **dict.fromkeys(base, 6), "other": 3}


def test_faults_survive_the_way_between_processes() -> None:
    import pickle

    faults = (Fault("a", "is odd", "Mend it."), Fault("b", "too"))
    assert pickle.loads(pickle.dumps(InputError(*faults))).faults == faults
