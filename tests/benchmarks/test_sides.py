"""What the sides of a benchmark share: pairs, order, environment, processes, and the page of results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import scaling
from harness import pairs, running, venv
from harness.record import section
from harness.running import Side, alternate
from harness.side import token_digest
from harness.trl import peers, values
from tiny import make_local

from truing.core.errors import InputError, RunError
from truing.core.evidence import Evidence, Pair
from truing.core.method import build
from truing.core.policy import Message, user
from truing.core.run import Run
from truing.models.template import Template

PAIRS = [Pair(user(f"say {n}"), f"the {n}", f"in {n}") for n in range(7)]


def test_the_peer_gets_the_pairs_in_the_order_in_which_our_loop_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    from truing.engine.loop import Loop

    members = Loop.members

    def note(loop: Loop, step: int) -> list[int]:
        found = members(loop, step)
        taken.extend(found)
        return found

    monkeypatch.setattr(Loop, "members", note)
    settings = {"per_device_train_batch_size": 2, "learning_rate": 0.0}
    build("preference/dpo", **settings)(make_local(), Evidence(pairs=PAIRS), Run(5))
    assert taken == pairs.visited(len(PAIRS), 5)
    assert taken != sorted(taken)


def test_rendered_text_read_at_once_gives_the_tokens_that_we_train_on(tokenizer: Any) -> None:
    template = Template(tokenizer, "tiny")
    text, (prompt,) = pairs.rendered(PAIRS[3], template), template.prompts([PAIRS[3].prompt])
    chosen = template.replies([PAIRS[3].chosen], bare=[False])[0]
    assert tuple(tokenizer(text["prompt"] + text["chosen"], add_special_tokens=False).input_ids) == prompt + chosen
    assert pairs.joins(PAIRS[3], template)


def test_a_pair_with_a_token_across_the_end_of_its_prompt_is_left_out(tokenizer: Any) -> None:
    """The tiny tokenizer merges t and h: a prefilled reply that ends in t, and goes on with h."""
    template = Template(tokenizer, "tiny")
    cut = Pair((*user("say"), Message("assistant", "t")), "he", "x")
    assert not pairs.joins(cut, template)


def test_made_up_pairs_are_the_same_every_time_and_differ_from_each_other() -> None:
    assert pairs.made_up(3, 0) == pairs.made_up(3, 0)
    assert pairs.made_up(3, 0) != pairs.made_up(4, 0)
    assert len(pairs.made_up(3, 0)["prompt"]) in (3, 5)


def test_training_begins_with_the_same_pairs_however_long_the_list_is() -> None:
    words = argparse.Namespace(data=pairs.MADE_UP, seed=3)
    lists = {count: list(scaling.lines(count, words, "none")) for count in (20, 300)}
    begun = [[lists[count][i] for i in pairs.visited(count, 3)[:20]] for count in lists]
    assert begun[0] == begun[1]
    assert all(len(set(rows)) == count for count, rows in lists.items())


def test_a_digest_tells_where_a_prompt_ends() -> None:
    assert token_digest([((1, 2), (3,), (4,))]) == token_digest([([1, 2], [3], [4])])
    assert token_digest([((1, 2), (3,), (4,))]) != token_digest([((1,), (2, 3), (4,))])


def test_a_peers_environment_takes_exactly_our_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv.importlib.metadata, "version", lambda name: {"torch": "2.13.0+cpu"}[name])
    assert venv.requirements(["trl==1.16.*"]) == ["trl==1.16.*", "torch==2.13.0+cpu"]


def test_an_environment_is_made_once_and_again_when_what_it_holds_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> None:
        called.append(words)
        if "venv" in words:
            (tmp_path / "trl" / "bin").mkdir(parents=True)
            (tmp_path / "trl" / "bin" / "python").touch()
            (tmp_path / "trl" / "pyvenv.cfg").touch()

    monkeypatch.setattr(venv, "_call", call)
    for packages in (["trl==1"], ["trl==1"], ["trl==2"]):
        assert venv.peer_python("trl", packages, home=tmp_path) == tmp_path / "trl" / "bin" / "python"
    assert [words[-2] for words in called if "install" in words] == ["trl==1", "trl==2"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="no virtual environment"):
        venv.peer_python("mine", ["trl==1"], home=tmp_path)


def test_an_environment_that_could_not_be_filled_is_not_taken_for_whole(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="pip-flags"):
        venv.peer_python("bad", ["./no such folder"], home=tmp_path, pip_flags="--no-index")
    assert not (tmp_path / "bad" / ".installed").exists()


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of benchmarks with one side that tells what it was given."""
    (tmp_path / "sides").mkdir()
    told = "dict(seconds=1.0, peak_bytes=1, device_bytes=0, job=job, threads=os.environ['OMP_NUM_THREADS'])"
    text = f"import json, os, sys\njob = json.load(open(sys.argv[1]))\nprint('noise')\nprint(json.dumps({told}))\n"
    (tmp_path / "sides" / "echo.py").write_text(text, encoding="utf-8")
    (tmp_path / "sides" / "broken.py").write_text("raise SystemExit('out of order')\n", encoding="utf-8")
    (tmp_path / "sides" / "silent.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(running, "BENCHMARKS", tmp_path)
    return tmp_path


def test_sides_run_in_turn_under_the_same_threads(side: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sides = [Side("a", "echo.py", {"x": 1}), Side("b", "echo.py", {"x": 2}, Path(sys.executable))]
    runs = alternate(sides, repeats=2, threads=3)
    assert [line.split()[1] for line in capfd.readouterr().err.splitlines()] == ["a:", "b:", "a:", "b:"]
    assert {name: [run["job"]["x"] for run in told] for name, told in runs.items()} == {"a": [1, 1], "b": [2, 2]}
    assert {run["threads"] for told in runs.values() for run in told} == {"3"}
    assert not Path(runs["a"][0]["job"]["scratch"]).exists()


def test_a_side_that_fails_says_why(side: Path) -> None:
    with pytest.raises(RunError, match="out of order"):
        alternate([Side("a", "broken.py", {})], repeats=1, threads=1)
    with pytest.raises(RunError, match="without a result"):
        alternate([Side("a", "silent.py", {})], repeats=1, threads=1)


def test_a_section_is_renewed_in_its_place_and_others_stay() -> None:
    page = section("b", r"two \1", section("a", "one", "# Results\n"))
    again = section("a", "three", page)
    assert again.index("three") < again.index(r"two \1")
    assert "one" not in again
    assert again.startswith("# Results\n")


def test_settings_on_the_command_line_are_values() -> None:
    assert values(["tokens_per_batch=4096", "bf16=true"]) == {"tokens_per_batch": 4096, "bf16": True}
    with pytest.raises(InputError, match="FIELD=VALUE"):
        values(["bf16"])
    assert list(peers("default,lean")) == ["default", "lean"]
    with pytest.raises(InputError, match="default"):
        peers("defalt")
    assert json.dumps(peers("grouped"))
