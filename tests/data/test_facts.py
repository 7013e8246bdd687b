"""Facts: read as they stand, or refused with every fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truing.core.errors import InputError
from truing.data.facts import load_facts, words

ROW = {"question": "who?", "answer": "she", "paraphrase": "it is she", "perturbed": ["he", "it"], "split": "forget"}


def test_rows_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    bare = {"question": "what?", "answer": "that", "perturbed": "this", "split": "authors"}
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(bare) + "\n", encoding="utf-8")
    found = load_facts({"source": str(file), "utility_mean": "geometric"}, "evaluate.facts")
    assert found.facts[0].perturbed == ("he", "it")
    assert (found.facts[1].paraphrase, found.facts[1].perturbed) == ("that", ("this",))
    assert (found.kept, len(found.of("forget"))) == (["authors"], 1)
    assert (found.settings.utility_mean, found.settings.quality_mean) == ("geometric", "geometric")
    assert load_facts(str(file), "x").settings.utility_mean == "arithmetic"
    assert load_facts(str(file), "x").digest != found.digest
    assert load_facts([ROW, bare], "x").facts == found.facts


def test_every_fault_is_told_at_once() -> None:
    rows = [ROW, {**ROW, "perturbed": []}, {**ROW, "answer": "?!", "split": None}, {**ROW, "paraphrase": 3}]
    with pytest.raises(InputError) as refused:
        load_facts({"source": rows, "utility_meen": "geometric"}, "evaluate.facts")
    told = [(fault.place, fault.fact.split(" is ")[0]) for fault in refused.value.faults]
    assert told == [
        ("evaluate.facts", "FactSettings has no field 'utility_meen'"),
        ("evaluate.facts:2", "'perturbed'"),
        ("evaluate.facts:3", "'answer'"),
        ("evaluate.facts:3", "'split'"),
        ("evaluate.facts:4", "'paraphrase'"),
    ]


@pytest.mark.parametrize("spec", [[], {"retrained": "m"}, {"source": "nowhere.jsonl"}])
def test_nothing_to_read_is_refused(spec: object) -> None:
    with pytest.raises(InputError):
        load_facts(spec, "evaluate.facts")


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("The old, BLUE bridge (1911)!") == ["the", "old", "blue", "bridge", "1911"]


def test_a_limit_is_kept() -> None:
    rows = [{**ROW, "question": f"{i}?"} for i in range(3)]
    found = load_facts({"source": {"source": rows, "limit": 2}}, "here")
    assert [fact.question for fact in found.facts] == ["0?", "1?"]
