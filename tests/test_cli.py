"""The command line: what each verb asks of the package, what it prints, and its exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from truing import __version__, report
from truing.cli import main
from truing.core.errors import RunError, bad
from truing.core.recipe import Recipe
from truing.pipeline import study

PAIRS = '{"prompt": "Say hi.", "chosen": "Hi.", "rejected": "No."}\n'


@dataclass
class Calls:
    """What the fakes were asked for."""

    runs: list[tuple[Recipe, Path, bool]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    clusters: list[str | None] = field(default_factory=list)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A pipeline that writes down its arguments and works on nothing."""
    seen = Calls()

    def run(recipe: Recipe, out: Path, *, resume: bool = False, ray: str | None = None) -> Path:
        seen.runs.append((recipe, out, resume))
        seen.clusters.append(ray)
        return out / "report.html"

    def evaluate(
        model: str, *, probes: Sequence[str], out: Path, data: Mapping[str, object] | None, judge: str | None, seed: int
    ) -> Path:
        seen.evaluations.append({"model": model, "probes": probes, "data": data, "judge": judge, "seed": seed})
        return out / "report.html"

    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(study, "evaluate", evaluate)
    return seen


def dpo(*words: str) -> list[str]:
    """``truing run preference/dpo`` with all that it cannot do without, and some words more."""
    return ["run", "preference/dpo", "--model", "m", "--data", "p.jsonl", "--out", "o", *words]


def faults(captured: str) -> list[str]:
    """The faults on standard error, without their numbers."""
    lines = captured.splitlines()
    return [line.split(". ", 1)[1] for line in lines[1:]] if "faults:" in lines[0] else lines


def test_arms_go_to_a_cluster_where_one_is_named(calls: Calls) -> None:
    assert main(dpo("--ray", "10.0.0.1:6379")) == main(dpo()) == 0
    assert calls.clusters == ["10.0.0.1:6379", None]


def test_fields_are_options_and_assignments_alike(calls: Calls) -> None:
    assert main(dpo("--beta", "0.05")) == main(dpo("--beta=0.05")) == main(dpo("--set", "beta=0.05")) == 0
    assert [recipe.points[0].steps[0].settings for recipe, _, _ in calls.runs] == [{"beta": 0.05}] * 3
    assert not any(recipe.faults for recipe, _, _ in calls.runs)


def test_options_may_stand_before_the_method(calls: Calls) -> None:
    fields = ["--learning-rate", "1e-6", "--bf16"]
    assert main(["run", *fields, "--seed", "3", *dpo()[1:]]) == main(dpo(*fields, "--seed", "3")) == 0
    assert calls.runs[0] == calls.runs[1]
    recipe, out, resume = calls.runs[0]
    step = recipe.points[0].steps[0]
    assert (step.method, step.settings) == ("preference/dpo", {"learning_rate": 1e-6, "bf16": True})
    assert (recipe.seed, out, resume) == (3, Path("o"), False)


def test_the_names_of_other_trainers_are_taken(calls: Calls) -> None:
    other = ["--model_name_or_path", "m", "--dataset-name", "p.jsonl", "--output_dir", "o", "--resume"]
    assert main(["run", "preference/dpo", *other]) == main(dpo("--resume")) == 0
    assert calls.runs[0] == calls.runs[1]
    assert calls.runs[0][0].data == {"pairs": "p.jsonl"}
    assert calls.runs[0][2] is True


def test_a_list_sweeps_the_field(calls: Calls) -> None:
    assert main(dpo("--learning_rate", "[1e-6, 2e-6]")) == 0
    assert [point.dial for point in calls.runs[0][0].points] == [("learning_rate", 1e-6), ("learning_rate", 2e-6)]


def test_data_goes_to_what_the_method_reads(calls: Calls) -> None:
    common = ["--model", "m", "--out", "o"]
    assert main(["run", "imitation/sft", "--data", "d.jsonl", *common]) == 0
    assert main(["run", "rerank/best_of_n", "--data", "d.jsonl", "--judge", "constraints", *common]) == 0
    assert main(["run", "preference/dpo", "--data", "a=b.jsonl", *common]) == 2
    assert main(["run", "preference/dpo", "--data", "pairs=a=b.jsonl", "--data", "prompts=q", *common]) == 0
    assert [r.data for r, _, _ in calls.runs] == [
        {"demos": "d.jsonl"}, {"prompts": "d.jsonl"}, {"pairs": "a=b.jsonl", "prompts": "q"},
    ]  # fmt: skip


def test_donors_judge_and_probes_reach_the_recipe(calls: Calls) -> None:
    words = ["--donor", "a=x/y", "--donor", "b=z", "--judge", "constraints", "--probes", "length, reward"]
    assert main(["run", "merge/linear", "--model", "m", "--out", "o", *words]) == 0
    recipe = calls.runs[0][0]
    assert recipe.points[0].donors == {"a": "x/y", "b": "z"}
    assert (recipe.judge, recipe.probes) == ("constraints", ("length", "reward"))


def test_every_fault_of_the_command_line_is_told_at_once(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--modle", "x", "--bta", "0.1", "--beta", "-3", "--set", "lr", "--donor", "z"]
    assert main(["run", "preference/dpo", *words]) == 2
    found = faults(capsys.readouterr().err)
    for part in (
        "--out: is missing", "Did you mean 'model'?", "Did you mean 'beta'?", "greater than 0",
        "'lr' sets nothing", "--donor NAME=MODEL", "--model: is missing", "--data pairs=FILE",
    ):  # fmt: skip
        assert sum(part in fault for fault in found) == 1, part
    assert len(found) == 8
    assert not calls.runs


def test_one_field_cannot_be_given_two_values(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(dpo("--beta", "0.1", "--set", "beta=0.2")) == 2
    assert "'beta' is given twice" in capsys.readouterr().err


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe without faults, and its data."""
    (tmp_path / "pairs.jsonl").write_text(PAIRS, encoding="utf-8")
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: smollm2\ndata: {{pairs: {tmp_path}/pairs.jsonl, prompts: constraints}}\n"
        "arms: {dpo: [preference/dpo]}\nprobes: [length]\n",
        encoding="utf-8",
    )
    return path


def test_a_recipe_takes_a_model_and_a_seed_and_refuses_fields(
    calls: Calls, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(recipe_file), "--out", "o", "--seed", "7", "--model", "mine"]) == 0
    recipe = calls.runs[0][0]
    assert (recipe.seed, recipe.model, recipe.name) == (7, "mine", "small")
    assert (recipe.raw["seed"], recipe.raw["model"]) == (7, "mine")
    assert main(["run", str(recipe_file), "--out", "o", "--beta", "0.1", "--donor", "a=b"]) == 2
    assert len(faults(capsys.readouterr().err)) == 2


def test_check_prints_what_became_of_the_rows(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = recipe_file.with_name("pairs.jsonl")
    pairs.write_text(PAIRS + '{"prompt": "a", "chosen": "b", "rejected": "b"}\n', encoding="utf-8")
    assert main(["check", str(recipe_file)]) == 0
    out = capsys.readouterr().out
    assert "no faults" in out
    assert "pairs: 2 rows" in out
    refused = out[out.index("refused") :].splitlines()
    assert refused[0].split() == ["refused", "1"]
    assert refused[1].split()[-2:] == ["1", "2"]  # one row, and it is the second


def test_check_tells_the_faults_of_every_recipe(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: m\narms: {a: [preference/dop], b: [merge/linaer]}\nprobs: []\n", encoding="utf-8")
    assert main(["check", str(wrong), str(recipe_file), str(tmp_path / "none.yaml")]) == 2
    captured = capsys.readouterr()
    found = faults(captured.err)
    assert len(found) == 4
    assert sum(fault.startswith(f"{wrong}: ") for fault in found) == 3
    for close in ("'preference/dpo'", "'merge/linear'", "'probes'"):
        assert sum(f"Did you mean {close}?" in fault for fault in found) == 1
    assert f"{recipe_file}: no faults" in captured.out


def test_evaluate_and_report_make_one_call(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "m", "--probes", "length,kl", "--data", "q.jsonl", "--judge", "j", "--out", "o"]) == 0
    expected = {"model": "m", "probes": ("length", "kl"), "data": {"prompts": "q.jsonl"}, "judge": "j", "seed": 0}
    assert calls.evaluations == [expected]
    given = ["--data", "refusal=r.jsonl", "--data", "facts=f.jsonl"]
    assert main(["evaluate", "m", "--probes", "refusal,model_utility", *given, "--out", "o"]) == 0
    assert calls.evaluations[-1]["data"] == {"refusal": "r.jsonl", "facts": "f.jsonl"}
    capsys.readouterr()
    assert main(["evaluate", "m", "--probes", "refusal", "--data", "refusals=r.jsonl", "--out", "o"]) == 2
    assert "Did you mean 'refusal'?" in capsys.readouterr().err
    assert main(["evaluate", "m"]) == 2
    assert len(faults(capsys.readouterr().err)) == 2

    asked: list[tuple[Sequence[Path], Path | None]] = []

    def write(folders: Sequence[Path], out: Path | None = None) -> tuple[Path, Path]:
        asked.append((folders, out))
        return Path("o/report.html"), Path("o/report.md")

    monkeypatch.setattr(report, "write", write)
    assert main(["report", "a", "b"]) == 0
    assert asked == [([Path("a"), Path("b")], None)]
    assert "o/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (bad("here", "there is a fault"), 2, "here: there is a fault."),
        (RunError("the loss is NaN at step 3"), 1, "The run failed: the loss is NaN at step 3"),
        (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), 130, "truing run preference/dpo --model m --data p.jsonl --out o --resume"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_exit_codes(
    error: BaseException, code: int, said: str, debug: bool, calls: Calls, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> Path:
        raise error

    monkeypatch.delenv("TRUING_DEBUG", raising=False)
    if debug:
        monkeypatch.setenv("TRUING_DEBUG", "1")
    monkeypatch.setattr(study, "run", fail)
    assert main(dpo()) == code
    told = capsys.readouterr().err
    assert said in told
    assert ("Traceback" in told) == (debug and code != 130)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["mehtods"], "'methods'"),
        (["dpo", "--beta", "0.1"], "'truing run preference/dpo'"),
        (["my.yaml"], "'truing run my.yaml'"),
        (["methods", "merge/liner"], "'merge/linear'"),
        (["methods", "preferance"], "'preference'"),
        (["check", "--resme", "x.yaml"], "--resme"),
        (["run", "prefrence/dpo", "--out", "o"], "'preference/dpo'"),
        (dpo("--data", "pares=x.jsonl"), "'pairs'"),
        (dpo("--seed", "one"), "invalid int value"),
        (["run"], "RECIPE|METHOD"),
    ],
)
def test_wrong_words_are_met_with_right_ones(
    words: list[str], meant: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert meant in capsys.readouterr().err
    assert not calls.runs


@pytest.mark.parametrize(
    "words", [["--help"], [], *([verb, "--help"] for verb in ("check", "run", "evaluate", "report"))]
)
def test_help_shows_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert "  truing run" in (out := capsys.readouterr().out) or f"  truing {words[0]} " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"truing {__version__}"


def test_a_stopped_process_leaves_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    """A real process and a real signal, in the middle of a run that would never end."""
    program = (
        "import sys, time\nfrom truing import cli\nfrom truing.pipeline import study\ndef run(*_, **__):\n"
        "    print('running', flush=True)\n    time.sleep(60)\nstudy.run = run\nsys.exit(cli.main())"
    )
    words = [sys.executable, "-c", program, *dpo("--set", "beta=0.1")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - began < 30
    assert "truing run preference/dpo" in told
    assert told.rstrip().endswith("--resume")
