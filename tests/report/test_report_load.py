from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_helpers import MakeRun, kl, win

from truing.core.errors import InputError
from truing.report import load
from truing.report.study import gather


def faults(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load.read(folder)
    return str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no such folder" in faults(tmp_path / "nowhere")


def test_both_missing_files_are_told_at_once(tmp_path: Path) -> None:
    said = faults(tmp_path)
    assert "has no run.json" in said
    assert "has no measures.jsonl" in said
    assert "truing run" in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "cannot be read"),
        ("[1]", "a JSON object"),
        ('{"probe": "kl"}', "value"),
        ('{"probe": "kl", "value": "x"}', "not a number"),
        ('{"probe": "kl", "value": 1, "colour": "red"}', "colour"),
        ('{"probe": "kl", "value": 1, "dial": ["beta"]}', "dial"),
        ('{"probe": 3, "value": 1}', "not text"),
    ],
)
def test_an_unreadable_measure_is_named_by_its_line(trial: Path, line: str, reason: str) -> None:
    file = trial / "measures.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", encoding="utf-8")
    said = faults(trial)
    assert "measures.jsonl:3:" in said
    assert reason in said


def test_faults_of_all_files_come_together(trial: Path) -> None:
    for name in ("measures.jsonl", "samples.jsonl", "arms/1/training.jsonl"):
        with (trial / name).open("ab") as out:
            out.write(b"\xff\n")
    said = faults(trial)
    assert said.count("cannot be read") == 3


def test_run_json_that_is_not_json_or_has_no_arms(trial: Path) -> None:
    (trial / "run.json").write_text("{", encoding="utf-8")
    assert "is not JSON" in faults(trial)
    (trial / "run.json").write_text("[]", encoding="utf-8")
    assert "no list 'arms'" in faults(trial)


def test_no_measures_at_all(trial: Path) -> None:
    (trial / "measures.jsonl").write_text("", encoding="utf-8")
    assert "holds no measures" in faults(trial)
    facts = json.loads((trial / "run.json").read_text(encoding="utf-8"))
    facts["recipe"] = {"probes": []}  # nothing was asked for
    (trial / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert not load.read(trial).measures


def test_a_training_log_outside_the_folder_is_refused(trial: Path) -> None:
    facts = json.loads((trial / "run.json").read_text(encoding="utf-8"))
    facts["arms"][1]["training"] = "../secret.jsonl"
    (trial / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    assert "lies outside" in faults(trial)


def test_a_training_log_that_is_gone_is_a_note(trial: Path) -> None:
    (trial / "arms/1/training.jsonl").unlink()
    assert any("dpo/beta=0.1 is not there" in note for note in load.read(trial).notes)


def test_the_last_of_a_repeated_measure_counts_and_an_unlisted_arm_is_kept(trial: Path) -> None:
    with (trial / "measures.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"probe": "kl", "value": 7.0, "arm": "dpo/beta=0.1"}) + "\n")
        out.write(json.dumps({"probe": "kl", "value": 8.0, "arm": "late"}) + "\n")
    study = gather([trial])
    assert study.table["dpo/beta=0.1"]["kl"].value == 7.0
    assert study.table["late"]["kl"].value == 8.0
    assert any("more than once" in note for note in study.notes)


def test_what_is_not_a_finite_number_is_not_shown_as_one(trial: Path) -> None:
    with (trial / "measures.jsonl").open("a", encoding="utf-8") as out:
        out.write('{"probe": "kl", "value": NaN, "arm": "prompt"}\n')
    study = gather([trial])
    assert study.find("prompt", "kl") is None
    assert "prompt" not in {p.arm.name for p in study.points}


def test_training_rows_are_in_order_and_resumed_steps_are_not_doubled(make_run: MakeRun) -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 3, "loss": 0.5}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 0.7}]
    rows += [{"step": 3, "eval_loss": 0.6}, {"loss": 4.0}]
    arm = load.read(make_run({"base": {}, "a": {**win(0.6), "_training": rows}})).arms[1]
    assert [row["step"] for row in arm.training] == [1, 2, 3]
    assert [row["loss"] for row in arm.training] == [1.0, 0.7, 0.5]
    assert arm.training[2]["eval_loss"] == 0.6


def test_one_folder_keeps_its_names(trial: Path) -> None:
    assert [arm.name for arm in gather([trial]).arms][:2] == ["base", "dpo/beta=0.1"]


def test_several_folders_are_told_apart_by_prefix(make_run: MakeRun) -> None:
    duel = {"win_rate.b": {"value": 0.6}}
    arms = {"base": {}, "a": {**win(0.6), **kl(1.0), **duel}, "b": {**win(0.7), **kl(2.0)}}
    one = make_run(arms, folder="one", name="first")
    two = make_run(arms, folder="two", name="second", model={"fingerprint": "other"}, status="interrupted")
    study = gather([one, two])
    assert [arm.name for arm in study.arms] == [
        f"{run} · {arm}" for run in ("first", "second") for arm in ("base", "a", "b")
    ]
    assert study.references == ("first · base", "second · base")
    assert study.find("second · a", "win_rate.second · b") is not None
    assert {arm.curve for arm in study.candidates} == {"first · a", "first · b", "second · a", "second · b"}
    assert study.notes[0].startswith("second: The run is not finished")
    assert any("different models" in note for note in study.notes)


def test_runs_of_one_name_are_numbered(make_run: MakeRun) -> None:
    arms = {"base": {}, "a": win(0.6)}
    study = gather([make_run(arms, folder="one"), make_run(arms, folder="two")])
    assert study.references == ("trial 1 · base", "trial 2 · base")


def test_replies_to_one_prompt_stand_together_across_runs(make_run: MakeRun) -> None:
    sample = {"chat": [{"role": "user", "content": "Hi"}], "replies": [{"arm": "a", "text": "x", "score": None}]}
    arms = {"base": {}, "a": win(0.6)}
    study = gather([make_run(arms, folder="one", samples=[sample]), make_run(arms, folder="two", samples=[sample])])
    assert [reply.arm for reply in study.samples[0].replies] == ["trial 1 · a", "trial 2 · a"]
