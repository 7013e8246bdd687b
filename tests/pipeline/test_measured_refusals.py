"""A recipe that fine-tunes, holds and recovers, and measures what is refused: checked as a whole, run as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import make_local

from truing.core.errors import InputError
from truing.core.measures import Measure
from truing.core.recipe import parse
from truing.pipeline.checking import check
from truing.pipeline.study import run

DEMOS = [{"prompt": f"what of {noun}?", "completion": f"the {noun}"} for noun in ("rain", "bread", "tides")]
HARMFUL = [{"prompt": f"harm {k}", "category": "c", "target": "the"} for k in range(3)]


def recipe(model: object, aligned: object, **changed: Any) -> Any:
    quick = {"max_steps": 2, "learning_rate": 1e-2}
    raw: dict[str, Any] = {
        "model": str(model),
        "data": {"demos": {"source": DEMOS}, "prompts": {"source": HARMFUL}},
        "arms": {
            "replay": [{"retain/replay": {**quick, "keep_max_new_tokens": 4}}],
            "recovered": {"donors": {"aligned": str(aligned)}, "steps": [{"retain/recover": {"steps": 2}}]},
        },
        "evaluate": {"refusal": {"source": HARMFUL, "benign": DEMOS, "aligned": str(aligned), "max_new_tokens": 4}},
        "probes": ["refusal", "drift"],
        **changed,
    }
    return parse(raw, name="refused")


def test_every_arm_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUING_CACHE", str(tmp_path / "cache"))
    for name, seed in (("tuned", 0), ("aligned", 1)):
        (tmp_path / name).mkdir()
        make_local(seed=seed, num_hidden_layers=3).save(tmp_path / name)
    page = run(recipe(tmp_path / "tuned", tmp_path / "aligned"), tmp_path / "out")
    lines = (tmp_path / "out" / "measures.jsonl").read_text(encoding="utf-8").splitlines()
    found = {(m.arm, m.probe): m for m in map(Measure.from_json, lines)}
    assert {arm for arm, _ in found} == {"base", "replay", "recovered"}
    assert {probe for _, probe in found} == {
        "refusal", "refusal.over", "drift", "drift.over", "drift.on c", "drift.rejected",
    }  # fmt: skip
    assert found["base", "refusal"].n == 3
    assert found["recovered", "drift.rejected"].value != found["base", "drift.rejected"].value
    assert "Over-refused" in page.read_text(encoding="utf-8")


def test_what_the_probes_lack_is_told_before_a_model_loads() -> None:
    with pytest.raises(InputError) as refused:
        check(recipe("nowhere", "aligned", evaluate={}))
    assert [fault.fact for fault in refused.value.faults] == [
        "refusal needs prompts to refuse", "drift needs prompts to refuse",
    ]  # fmt: skip
    with pytest.raises(InputError) as refused:
        check(recipe("nowhere", "aligned", evaluate={"refusal": {"source": [{}], "aligned": "./nowhere"}}))
    told = " ".join(fault.fact for fault in refused.value.faults)
    assert "there is no folder ./nowhere" in told
    assert "'prompt' is None" in told
