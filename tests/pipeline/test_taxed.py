"""A recipe that tunes, gives back, and measures what was lost: run as a whole, with questions of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import comparison
from tiny import make_local

from truing.core.errors import InputError
from truing.core.measures import Measure
from truing.pipeline.checking import check
from truing.pipeline.study import run

QUESTIONS = [{"question": f"What of {noun}?", "choices": ["a", "the in", "hm"], "answer": "hm"} for noun in "abcdef"]


def taxed(folder: Path, model: Path | str, **changed: Any) -> Any:
    training = {"learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4}
    given = {"donors": {"tuned": "arms.dpo"}}
    parts = {"parts": 2, "pretrained_fraction": [0.5], "max_steps": 2}
    arms = {
        "dpo": [{"preference/dpo": training}],
        "parts": {**given, "steps": [{"merge/heterogeneous": parts}]},
        "searched": {
            **given,
            "steps": [{"merge/searched": {"parts": 2, "tax": [0.0, 0.1], "evaluations": 7, "passages": 1}}],
        },
    }
    prompts = [{"prompt": f"What of {noun}?"} for noun in ("rain", "salt")]
    raw = {"evaluate": {"prompts": prompts, "draws": 2, "questions": QUESTIONS}, "arms": arms, **changed}
    return comparison(folder, model, probes=["win_rate", "perplexity", "multiple_choice"], **raw)


def test_a_tax_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "model"
    model.mkdir()
    make_local(max_position_embeddings=2048).save(model)
    page = run(taxed(tmp_path, model), tmp_path / "out")
    lines = (tmp_path / "out" / "measures.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(m.arm, m.probe): m for m in map(Measure.from_json, lines)}
    assert found["base", "multiple_choice"].n == 6
    arms = ("dpo", "parts/pretrained_fraction=0.5", "searched/tax=0", "searched/tax=0.1")
    assert {arm for arm, probe in found if probe == "multiple_choice.change"} == set(arms)
    assert {arm for arm, probe in found if probe == "perplexity.ratio"} <= set(arms)
    assert len(list((tmp_path / "cache" / "fronts").iterdir())) == 1  # two arms, one search
    text = page.read_text(encoding="utf-8")
    assert "Alignment against its tax" in text
    data = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["data"]
    assert data["questions"]["digest"]


def test_questions_that_cannot_be_asked_are_told_before_a_model_loads(tmp_path: Path) -> None:
    bad = {"prompts": [{"prompt": "a"}], "questions": [{"question": "?", "choices": ["a"], "answer": 0}]}
    with pytest.raises(InputError, match="Give a list of two texts or more"):
        check(taxed(tmp_path, "nowhere", evaluate=bad))
