"""A recipe that unlearns and measures it on facts: checked as a whole, run as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import InputError
from truing.core.measures import Measure
from truing.core.recipe import parse
from truing.models.local import Local
from truing.pipeline.checking import check
from truing.pipeline.study import run

NOUNS = ("rain", "bread", "tides", "cats", "iron", "maps")
FACTS = [
    {"question": f"What of {noun}?", "answer": f"the {noun}", "perturbed": ["no", "hm"],
     "split": ("forget", "retain")[k % 2]} for k, noun in enumerate(NOUNS)
]  # fmt: skip
RATINGS = [{"prompt": fact["question"], "completion": fact["answer"], "label": k % 2} for k, fact in enumerate(FACTS)]


def recipe(model: object, **changed: Any) -> Any:
    raw: dict[str, Any] = {
        "model": str(model),
        "data": {"ratings": {"source": RATINGS}},
        "arms": {"npo": [{"unlearn/npo": {"max_steps": 2, "learning_rate": 1e-2, "retain": "kl"}}]},
        "evaluate": {"facts": {"source": FACTS, "retrained": str(model), "max_new_tokens": 4}},
        "probes": ["forget_quality", "model_utility"],
        **changed,
    }
    return parse(raw, name="forgotten")


@pytest.fixture(scope="session")
def model(tiny_policy: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_policy.save(folder)
    return folder


def test_both_numbers_of_both_arms_are_in_the_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    page = run(recipe(model), tmp_path / "out")
    lines = (tmp_path / "out" / "measures.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(m.arm, m.probe): m for m in map(Measure.from_json, lines)}
    assert {probe for _, probe in found} == {"forget_quality", "forget_quality.distance", "model_utility"}
    assert found["base", "forget_quality"].value == 1.0  # here the base is the retrained model itself
    assert found["npo", "forget_quality.distance"].value > 0
    assert found["npo", "model_utility"].n == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert "Model utility" in page.read_text(encoding="utf-8")


def test_what_the_probes_lack_is_told_before_a_model_loads() -> None:
    with pytest.raises(InputError) as refused:
        check(recipe("nowhere", evaluate={}))
    assert [fault.fact for fault in refused.value.faults] == ["forget_quality needs facts", "model_utility needs facts"]
    with pytest.raises(InputError, match="forget_quality needs a model to compare with"):
        check(recipe("nowhere", evaluate={"facts": {"source": FACTS}}))
    bad = {"source": [*FACTS, {"question": "?"}], "retrained": "./nowhere"}
    with pytest.raises(InputError) as refused:
        check(recipe("nowhere", evaluate={"facts": bad}))
    told = " ".join(fault.fact for fault in refused.value.faults)
    assert "there is no folder ./nowhere" in told
    assert "'answer' is None" in told
