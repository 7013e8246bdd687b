"""Verdicts on a training log, from series made for the purpose: each says its thing, and nothing else does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from fitting import train
from tiny import Notes

from truing.core.run import Run
from truing.engine.verdicts import LEAST, READS, Finding, findings
from truing.models.local import Local

Shape = Callable[[float], float]
QUIET: Mapping[str, Shape] = {
    "loss": lambda t: 0.69 - 0.3 * t,
    "grad_norm": lambda t: 3.0,
    "displacement/chosen": lambda t: 4 * t,
    "displacement/rejected": lambda t: -8 * t,
    "saturated": lambda t: 0.5 * t,
    "lengths/chosen": lambda t: 80.0,
    "lengths/longer_rewarded": lambda t: 0.5 + 0.1 * t,
    "lengths/longer_chosen": lambda t: 0.6,
    "entanglement/chosen_falls": lambda t: 0.2,
}


def log(rows: int = 40, noise: float = 0.02, **shapes: Shape) -> list[dict[str, float]]:
    """A log of five steps a row; names with ``__`` for ``/`` replace those of a run in which all goes well."""
    source = random.Random(3)
    series = {**QUIET, **{name.replace("__", "/"): shape for name, shape in shapes.items()}}
    return [
        {"step": 5.0 * (k + 1), **{n: f(k / (rows - 1)) + noise * source.gauss(0, 1) for n, f in series.items()}}
        for k in range(rows)
    ]


def only(rows: list[dict[str, float]]) -> Finding:
    (found,) = findings(rows)
    return found


def test_nothing_is_said_where_all_goes_well_or_too_little_is_known() -> None:
    assert findings(log()) == []
    assert findings([]) == []
    bad: dict[str, Shape] = {"displacement__chosen": lambda t: -50.0, "saturated": lambda t: 1.0}
    assert findings(log(LEAST - 1, **bad)) == []
    assert {finding.kind for finding in findings(log(LEAST, **bad))} == {"displacement", "saturation"}


def test_the_chosen_reply_falls_with_the_rejected_one() -> None:
    """It falls from t = 0.5 on; the first three rows with a mean below -1 begin at row 21 (from 0), step 110."""
    found = only(log(displacement__chosen=lambda t: 1.0 if t < 0.5 else 1.0 - 40 * (t - 0.5), noise=0.0))
    assert found.kind == "displacement"
    assert found.since == 110
    assert "both fall" in found.fact
    assert "lost 14.4" in found.fact  # the last quarter, rows 30 to 39: 1 - 40 (34.5 / 39 - 0.5)
    assert "(0.18 a token)" in found.fact
    assert "measured" not in found.fact
    assert "Lower learning_rate, raise beta" in found.mend
    assert str(found).startswith("Chosen replies have lost")


def test_entanglement_is_named_where_it_was_measured() -> None:
    rows = log(displacement__chosen=lambda t: -9 * t, entanglement__chosen_falls=lambda t: 0.8, noise=0.0)
    assert "in 80 % of the measured pairs a step" in only(rows).fact


def test_a_fall_alone_is_not_called_both() -> None:
    rows = log(displacement__chosen=lambda t: -9 * t, displacement__rejected=lambda t: 2 * t)
    assert "both" not in only(rows).fact


@pytest.mark.parametrize(("depth", "noise"), [(0.6, 0.02), (2.0, 8.0)])
def test_a_small_fall_and_one_within_the_noise_are_no_finding(depth: float, noise: float) -> None:
    rows = log(noise=0.0)
    source = random.Random(1)
    for k, row in enumerate(rows):
        row["displacement/chosen"] = -depth * k / 39 + source.gauss(0, noise)
    assert findings(rows) == []


def test_the_margin_saturates() -> None:
    found = only(log(saturated=lambda t: min(0.95, 1.9 * t), noise=0.0))
    assert found.kind == "saturation"
    assert "95 % of the pairs" in found.fact
    assert found.since is not None
    assert 80 <= found.since <= 90  # 1.9 t = 0.8 at t = 0.42, row 16.4, step 87


@pytest.mark.parametrize(
    ("rewarded", "chosen", "kind", "said"),
    [(0.85, 0.55, "length", "leans on length"), (0.95, 0.95, "balance", "alone would rank")],
)
def test_length_is_leant_on_or_is_all_there_is(rewarded: float, chosen: float, kind: str, said: str) -> None:
    shapes: dict[str, Shape] = {
        "lengths__longer_rewarded": lambda t: rewarded,
        "lengths__longer_chosen": lambda t: chosen,
    }
    found = only(log(noise=0.001, **shapes))
    assert (found.kind, said in found.fact) == (kind, True)
    assert f"{100 * rewarded:.0f} %" in found.fact


def test_a_reward_that_follows_balanced_data_leans_on_nothing() -> None:
    rows = log(lengths__longer_rewarded=lambda t: 0.66, lengths__longer_chosen=lambda t: 0.6)
    assert findings(rows) == []


def test_the_loss_hardly_moved_or_rose() -> None:
    assert "hardly moved: from 0.6929 to 0.6921" in only(log(loss=lambda t: 0.693 - 0.001 * t, noise=0.0)).fact
    assert "rose" in only(log(loss=lambda t: 0.7 + 0.3 * t)).fact
    assert findings(log(loss=lambda t: 0.69 - 0.05 * t, noise=0.001)) == []
    scattered = log(loss=lambda t: 2.0 + 0.3 * (-1) ** round(39 * t), noise=0.0)
    assert findings(scattered) == []  # no change at all, but a fall could hide: not known


def test_rows_may_lack_what_was_not_measured() -> None:
    """Rows of an evaluation, of imitation, of another version."""
    rows: list[Any] = [*log(displacement__chosen=lambda t: -9.0), {"step": 200.0, "eval_loss": 1.0}]
    for row in rows:
        row.pop("lengths/chosen", None)
    assert only(rows).kind == "displacement"
    for row in rows:
        row.pop("displacement/rejected", None)
    assert "both" not in only(rows).fact
    assert findings([{"step": float(k), "loss": 5.0 - 0.1 * k} for k in range(20)]) == []


def test_a_checkpoint_keeps_what_decides() -> None:
    rows = log(displacement__chosen=lambda t: -9.0, saturated=lambda t: 1.0)
    kept = json.loads(json.dumps([{name: row[name] for name in READS} for row in rows]))
    assert findings(kept) == findings(rows)
    assert len(findings(kept)) == 2


class TestWhileTraining:
    """A loss that drives the reply down, told once in passing and once at the end."""

    @staticmethod
    def falling(scores: Any, numbers: Any) -> Any:
        sums = scores.sums
        return sums, {"displacement/chosen": torch.full_like(sums.detach(), -7.0)}

    def test_it_is_said_when_it_appears_and_at_the_end(self, tiny_policy: Local, notes: Notes) -> None:
        train(tiny_policy, run=Run(log=notes), loss=self.falling, max_steps=8, max_grad_norm=0.0)
        said = [line for line in notes.said if "Chosen replies" in line]
        assert [line.split(":")[0] for line in said] == [f"  step {LEAST}", "  training"]

    def test_a_resumed_run_says_what_the_whole_would(self, tiny_policy: Local, tmp_path: Any) -> None:
        settings = {"max_steps": 9, "loss": self.falling, "max_grad_norm": 0.0, "save_steps": 1}
        whole, first, second = Notes(), Notes(stop_at=7), Notes()
        train(tiny_policy, run=Run(log=whole), **settings)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_policy, run=Run(work=tmp_path, log=first), **settings)
        train(tiny_policy, run=Run(work=tmp_path, resume=True, log=second), **settings)
        assert [*first.said, *second.said[1:]] == whole.said
        assert len(whole.said) == 2
