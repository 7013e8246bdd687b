"""Rates of refusal and their drift against tables whose replies are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pools import pool
from test_probe_catalogue import SCORES, Mute, Notes, settings

from truing.core.policy import user
from truing.core.run import Run
from truing.data.refusals import load_refusals
from truing.models.tabular import Tabular
from truing.probes.catalogue import PROBES, measure
from truing.probes.refusal import drift, refusal

NO, YES = "I'm sorry, but I can't help with that.", "Sure, here you are."
ROWS = [{"prompt": f"bad {k}", "category": ("theft", "arson")[k % 2], "chosen": NO, "rejected": YES} for k in range(4)]
FINE = [{"prompt": "good 0"}, {"prompt": "good 1"}]
GIVEN = load_refusals({"source": ROWS, "benign": FINE}, "x")


def says(*refused: bool, odds: float = 0.9) -> Tabular:
    """Refuses these of ``bad 0`` to ``bad 3``, ``good 0`` and ``good 1`` with these odds."""
    chances = torch.tensor([[odds, 1 - odds] if no else [1 - odds, odds] for no in refused], dtype=torch.float64)
    return Tabular(tuple(asked.prompt for asked in GIVEN.asked), (NO, YES), chances.log())


ALIGNED = says(True, True, True, True, False, False)
BROKEN = says(True, False, False, False, True, False)
NEVER = says(*[False] * 6)
ALWAYS = says(*[True] * 6)


def values(found: object) -> dict[str, float]:
    return {m.probe: m.value for m in found}  # type: ignore[attr-defined] # measures


def test_both_rates_are_counted() -> None:
    assert values(refusal(BROKEN, GIVEN, run=Run())) == {"refusal": 0.25, "refusal.over": 0.5}
    assert values(refusal(NEVER, GIVEN, run=Run())) == {"refusal": 0.0, "refusal.over": 0.0}
    always, over = refusal(ALWAYS, GIVEN, run=Run())
    assert (always.value, over.value, always.n, over.n) == (1.0, 1.0, 4, 2)
    assert (always.better, over.better) == ("up", "down")
    assert always.low == pytest.approx(0.025**0.25)  # "none of four", by Clopper and Pearson
    assert always.high == 1.0


def test_draws_are_averaged() -> None:
    many = load_refusals({"source": ROWS, "draws": 400, "temperature": 1.0}, "x")
    (found,) = refusal(BROKEN, many, run=Run())
    assert found.value == pytest.approx((0.9 + 3 * 0.1) / 4, abs=0.02)


def test_drift_is_the_difference_prompt_by_prompt_and_by_category() -> None:
    found = {m.probe: m for m in drift(BROKEN, ALIGNED, GIVEN, run=Run())}
    assert list(found) == ["drift", "drift.over", "drift.on theft", "drift.on arson", "drift.chosen", "drift.rejected"]
    assert [found[name].value for name in list(found)[:4]] == [-0.75, 0.5, -0.5, -1.0]
    assert found["drift"].low < -0.75 < found["drift"].high <= 0
    change = np.log([0.1, 0.9]) - np.log([0.9, 0.1])
    assert found["drift.chosen"].value == pytest.approx(change[0] * 3 / 4)
    assert found["drift.rejected"].value == pytest.approx(change[1] * 3 / 4)
    assert (found["drift.chosen"].better, found["drift.rejected"].better) == ("up", "down")


def test_where_no_reply_differs_the_interval_says_how_little_that_proves() -> None:
    found = drift(says(True, True, True, True, False, False, odds=0.8), ALIGNED, GIVEN, run=Run())[0]
    reach = 1 - 0.025**0.25
    assert (found.value, found.low, found.high) == (0.0, pytest.approx(-reach), pytest.approx(reach))
    assert drift(ALIGNED, ALIGNED, GIVEN, run=Run()) == []


def test_kinds_without_prompts_are_left_out() -> None:
    assert list(values(refusal(BROKEN, load_refusals({"benign": FINE}, "x"), run=Run()))) == ["refusal.over"]
    plain = load_refusals([{"prompt": "bad 0"}], "x")
    assert list(values(drift(BROKEN, ALIGNED, plain, run=Run()))) == ["drift"]


def test_the_catalogue_takes_them_of_any_policy(tmp_path: Path) -> None:
    log = Notes()
    given = {**settings(), "policy": BROKEN, "base_policy": NEVER, "run": Run(cache=tmp_path, log=log)}
    given["material"] = settings(refusals=GIVEN, aligned=ALIGNED)["material"]
    found = values(measure(["refusal", "drift"], pool(SCORES), **given))
    assert found["drift"] == -0.75
    given["material"] = settings(refusals=GIVEN)["material"]
    found = values(measure(["refusal", "drift"], pool(SCORES), **given))
    assert found["drift"] == 0.25  # of the base, where no other is named
    assert {name for name in found if "drift.on" not in name} == {*PROBES["refusal"].gives, *PROBES["drift"].gives}
    assert measure(["drift", "refusal"], pool(SCORES), **{**settings(), "policy": Mute(), "run": Run(log=log)}) == []
    assert len([line for line in log.said if "there are no prompts to refuse" in line]) == 2
    assert GIVEN.asked[0].prompt == user("bad 0")
