"""A comparison from its recipe to its page: what it writes, that it repeats itself, and that it can be taken up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import comparison

from truing import load
from truing.core.errors import InputError, RunError
from truing.core.measures import Measure
from truing.core.recipe import Recipe
from truing.core.run import Run
from truing.engine import cache as cached
from truing.methods.preference.dpo import DPO
from truing.models.local import Local
from truing.pipeline import arm as one_arm
from truing.pipeline import asking, study
from truing.pipeline.study import evaluate, run

ARMS = ["base", "exemplars", "best_of_n/n=2", "best_of_n/n=4", "dpo/beta=0.1", "merge/weight=0.5"]
COSTS = ("cost.seconds", "cost.memory")  # what a clock and a machine decide


@pytest.fixture(scope="session")
def model(tiny_policy: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder."""
    folder = tmp_path_factory.mktemp("model")
    tiny_policy.save(folder)
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the judge and the pairs are."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def finished(model: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUING_CACHE", str(folder / "cache"))
        page = run(comparison(home, model), folder / "out")
    assert page == folder / "out" / "report.html"
    return folder / "out"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that another test computed is found."""
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))


def measures(folder: Path) -> list[Measure]:
    """What was measured."""
    return [Measure.from_json(line) for line in (folder / "measures.jsonl").read_text(encoding="utf-8").splitlines()]


def decided(folder: Path) -> list[str]:
    """The lines that recipe and seed decide, byte for byte."""
    lines = (folder / "measures.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if json.loads(line)["probe"] not in COSTS]


def facts(folder: Path) -> Any:
    """What ``run.json`` says."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def value(rows: list[Measure], arm: str, probe: str) -> Measure:
    """The one measure of that arm and probe."""
    (found,) = [row for row in rows if (row.arm, row.probe) == (arm, probe)]
    return found


def test_everything_that_a_run_promises_is_written(finished: Path) -> None:
    assert {"run.json", "measures.jsonl", "samples.jsonl", "report.html", "report.md", "arms"} <= {
        path.name for path in finished.iterdir()
    }
    told = facts(finished)
    assert told["status"] == "finished"
    assert [arm["name"] for arm in told["arms"]] == ARMS
    assert set(told["data"]) == {"pairs", "evaluate"}
    assert all(len(entry["digest"]) == 64 for entry in told["data"].values())
    for arm in told["arms"][1:]:
        assert (finished / arm["artefact"] / "README.md").is_file()
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == told["prompts"] == 5
    assert [reply["arm"] for reply in samples[0]["replies"]] == ARMS
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("exemplars", "best_of_n", "dpo", "merge"))


def test_every_arm_has_the_measures_that_it_can_have(finished: Path) -> None:
    rows = measures(finished)
    by_arm = {arm: {row.probe for row in rows if row.arm == arm} for arm in ARMS}
    everywhere = {"win_rate", "reward", "length", "kl", "cost.seconds"}
    assert all(everywhere <= found for arm, found in by_arm.items() if arm != "base"), by_arm
    assert "perplexity" in by_arm["base"] & by_arm["dpo/beta=0.1"] & by_arm["merge/weight=0.5"]
    assert {row.dial for row in rows if row.curve == "best_of_n"} == {("n", 2.0), ("n", 4.0)}
    assert value(rows, "base", "kl").value == 0
    assert value(rows, "base", "win_rate").value == 0.5
    assert value(rows, "dpo/beta=0.1", "kl").value > 0


def test_only_what_was_trained_counts_as_trained(finished: Path, model: Path) -> None:
    rows = measures(finished)
    policy = load(str(model))
    assert isinstance(policy, Local)
    parameters = sum(tensor.numel() for tensor in policy.weights().values())
    assert value(rows, "dpo/beta=0.1", "cost.trained").value == parameters
    assert value(rows, "merge/weight=0.5", "cost.trained").value == 0


def test_reranking_is_measured_on_the_base_s_own_draws(finished: Path) -> None:
    """The mean reward of the best of n rises with n when one pool gives them all; with other draws it might not."""
    rows = measures(finished)
    rewards = [value(rows, arm, "reward").value for arm in ("base", "best_of_n/n=2", "best_of_n/n=4")]
    assert rewards == sorted(rewards)
    assert rewards[0] < rewards[2]
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in samples:
        scores = {reply["arm"]: reply["score"] for reply in row["replies"]}
        assert scores["best_of_n/n=4"] >= scores["base"]


def test_the_merge_is_half_way(finished: Path, model: Path) -> None:
    import torch

    folders = (model, finished / "arms" / "dpo" / "beta=0.1", finished / "arms" / "merge" / "weight=0.5")
    base, tuned, merged = (load(str(folder)) for folder in folders)
    assert isinstance(base, Local)
    assert isinstance(tuned, Local)
    assert isinstance(merged, Local)
    for name, tensor in base.weights().items():
        torch.testing.assert_close(merged.weights()[name], (tensor + tuned.weights()[name]) / 2)
    assert base.fingerprint != merged.fingerprint != tuned.fingerprint


def test_recipe_and_seed_decide_every_byte(finished: Path, model: Path, home: Path, tmp_path: Path) -> None:
    """Another folder and another cache: nothing is carried over."""
    run(comparison(home, model), tmp_path / "out")
    assert decided(tmp_path / "out") == decided(finished)
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == (finished / "samples.jsonl").read_bytes()


def test_another_seed_gives_other_draws(finished: Path, model: Path, home: Path, tmp_path: Path) -> None:
    recipe = comparison(home, model, seed=2, arms={"bon": [{"rerank/best_of_n": {"n": [2]}}]}, probes=["length"])
    run(recipe, tmp_path / "out")
    first = (finished / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0]
    other = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["replies"][0] != json.loads(other)["replies"][0]


def interrupted(monkeypatch: pytest.MonkeyPatch, recipe: Recipe, out: Path) -> None:
    """Run until the arm that trains, which fails."""

    def fail(self: DPO, *args: object) -> Any:
        raise RunError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(DPO, "__call__", fail)
        with pytest.raises(RunError, match="the power went"):
            run(recipe, out)


def test_an_interrupted_run_is_taken_up_as_if_nothing_had_been(
    finished: Path, model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = comparison(home, model), tmp_path / "out"
    interrupted(monkeypatch, recipe, out)
    assert facts(out)["status"] == "running"
    assert not (out / "measures.jsonl").exists()
    assert [arm["name"] for arm in facts(out)["arms"]] == ARMS[:4]
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        run(recipe, out)
    with pytest.raises(InputError, match="another recipe, model or data"):
        run(comparison(home, model, seed=7), out, resume=True)

    card = out / "arms" / "exemplars" / "README.md"
    card.unlink()  # as if the power had gone a moment later
    asked: list[str] = []
    whole = one_arm.measure
    monkeypatch.setattr(
        one_arm, "measure", lambda names, pool, **rest: asked.append(pool.arm) or whole(names, pool, **rest)
    )
    run(recipe, out, resume=True)
    assert asked == ARMS[4:], "what was measured before is not measured again"
    assert card.is_file()
    assert decided(out) == decided(finished)
    assert (out / "samples.jsonl").read_bytes() == (finished / "samples.jsonl").read_bytes()
    assert [arm["name"] for arm in facts(out)["arms"]] == ARMS


def test_two_runs_do_not_share_a_folder(model: Path, home: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(InputError, match="another run"):
        run(comparison(home, model), tmp_path / "out", resume=True)
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_finished_run_is_not_run_again(finished: Path, model: Path, home: Path) -> None:
    before = (finished / "run.json").read_bytes()
    assert run(comparison(home, model), finished, resume=True) == finished / "report.html"
    assert (finished / "run.json").read_bytes() == before
    with pytest.raises(InputError, match="holds a run already"):
        run(comparison(home, model), finished)


def test_other_data_under_the_same_name_is_another_run(finished: Path, model: Path, home: Path) -> None:
    recipe = comparison(home, model)
    file = Path(recipe.data["pairs"])
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(text.replace("aeiou", "eee"), encoding="utf-8")
        with pytest.raises(InputError, match="another recipe, model or data"):
            run(recipe, finished, resume=True)
    finally:
        file.write_text(text, encoding="utf-8")


def test_one_call_draws_for_the_base_and_all_that_rerank_it(
    model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(policy: Any, chats: Any, *, n: int, **rest: Any) -> Any:
        calls.append(n)
        return cached.draws(policy, chats, n=n, **rest)

    monkeypatch.setattr(asking, "draws", counted)
    arms = {"bon": [{"rerank/best_of_n": {"n": [2, 4]}}]}
    run(comparison(home, model, arms=arms, probes=["win_rate"]), tmp_path / "out")
    assert calls == [5], "four to choose from and one more as the opponent"


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"probes": ["lenth"]}, "Did you mean 'length'"),
        ({"arms": {"a": [{"preference/dpo": {"beta": -1}}]}}, "beta = -1"),
        ({"judge": "python:none.py:f"}, "there is no such file"),
        ({"data": {"pairs": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"judge": None, "probes": ["win_rate"]}, "win_rate needs a judge"),
    ],
)
def test_faults_are_raised_before_a_model_loads(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], fault: str
) -> None:
    def loaded(*args: object, **options: object) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(study, "load", loaded)
    with pytest.raises(InputError, match=fault):
        run(comparison(home, "nothing", **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_model_is_measured_as_it_is(model: Path, home: Path, tmp_path: Path) -> None:
    prompts = [{"prompt": "Say rain."}, {"prompt": "Say salt."}]
    page = evaluate(
        str(model), probes=["length", "perplexity"], out=tmp_path / "out", data={"prompts": prompts}, judge=None, seed=0
    )  # fmt: skip
    assert page.is_file()
    rows = measures(tmp_path / "out")
    assert {row.arm for row in rows} == {"base"}
    assert {"length", "perplexity"} <= {row.probe for row in rows}


def test_a_run_s_own_work_folder_holds_what_a_method_is_given(
    model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Run] = []
    whole: Callable[..., Any] = DPO.__call__
    monkeypatch.setattr(DPO, "__call__", lambda *args: seen.append(args[-1]) or whole(*args))
    arms = {"dpo": [{"preference/dpo": {"max_steps": 1, "logging_steps": 1}}]}
    run(comparison(home, model, arms=arms, probes=["cost"]), tmp_path / "out")
    (given,) = seen
    assert (given.seed, given.resume) == (1, False)
    assert given.work is not None
    assert given.work.is_relative_to(tmp_path / "out" / "work")
    assert given.cache == tmp_path / "cache"
    assert facts(tmp_path / "out")["arms"][1]["training"] == "arms/dpo.training.jsonl"
    assert (tmp_path / "out" / "arms" / "dpo.training.jsonl").is_file()
