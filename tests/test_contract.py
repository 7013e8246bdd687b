"""The five laws that every method keeps, for every method that there is."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_local, same_weights, words

import truing
from truing.core.artefact import save_policy
from truing.core.evidence import Demo, Evidence, Judge, Pair
from truing.core.method import find, names
from truing.core.policy import Chat, Editable, Policy, Sampling, user
from truing.core.recipe import parse
from truing.core.rng import Rng
from truing.core.run import Run
from truing.judges.constraints import ConstraintJudge

CHATS = (user("the tin"), user("a hat, in ink"), user("shh"))
SAMPLING = Sampling(max_new_tokens=6)


class Longest(Judge):
    """Counts letters."""

    name = "longest"

    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        return [float(len(reply)) for reply in replies]


# What each method needs, beyond its defaults, to do something visible on a tiny model in a second.
QUICK = {"learning_rate": 1e-2, "per_device_train_batch_size": 2}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "imitation/sft": QUICK,
    "merge/linear": {"weight": 0.5},
    "preference/dpo": QUICK,
    "preference/ipo": QUICK,
    "prompt/exemplars": {"shots": 1, "preamble": False},
    "rerank/best_of_n": {"n": 3},
    "synthesize/best_and_worst": {"draws": 4, "max_new_tokens": 6},
}


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence(
        prompts=CHATS,
        demos=tuple(Demo(chat, "in the hat") for chat in CHATS),
        pairs=tuple(Pair(chat, "the hat", "no ink at all") for chat in CHATS),
        donors={"other": make_local(seed=1)},
        judge=Longest(),
    )


def everything(outcome: Any) -> Any:
    """What an outcome says, as comparable values."""
    if isinstance(outcome, Policy):
        return words(outcome.sample(CHATS, n=2, sampling=SAMPLING, rng=Rng(5)))
    assert isinstance(outcome, Evidence)
    return (outcome.prompts, outcome.demos, outcome.pairs, outcome.ratings)


def test_the_contract_knows_every_method() -> None:
    assert set(SETTINGS) == set(names()), "give a new method its settings here, and the laws are tested for it"


@pytest.mark.parametrize("name", names())
def test_it_changes_neither_base_nor_evidence_and_is_decided_by_the_seed(name: str, evidence: Evidence) -> None:
    base, method = make_local(), truing.build(name, **SETTINGS[name])
    twin, before = make_local(), copy.copy(vars(evidence))
    first = everything(method(base, evidence, Run(seed=3)))
    assert same_weights(base, twin)
    assert vars(evidence) == before
    assert same_weights(evidence.donors["other"], make_local(seed=1))
    assert everything(method(base, evidence, Run(seed=3))) == first
    if find(name).card.gives is not Evidence:
        assert first != everything(base), "the settings above must do something, or no law is tested"


@pytest.mark.parametrize("name", names())
def test_at_its_neutral_settings_nothing_changes(name: str, evidence: Evidence) -> None:
    card, base = find(name).card, make_local()
    outcome = truing.build(name, **{**SETTINGS[name], **card.neutral})(base, evidence, Run())
    if isinstance(outcome, Evidence):
        assert not outcome.provided
        return
    assert everything(outcome) == everything(base)
    if isinstance(outcome, Editable):
        assert same_weights(outcome, base)


@pytest.mark.parametrize("name", names())
def test_what_it_needs_and_reads_is_checked_before_a_model_loads(name: str) -> None:
    card = find(name).card
    faults = parse({"model": "nowhere", "arms": {"arm": [name]}}, name="x").faults
    for field in card.reads:
        assert any(f"reads {field}" in fault.fact and fault.mend for fault in faults), field
    assert card.reads or not faults
    remote = parse({"model": "http://localhost:1/v1#m", "arms": {"arm": [name]}}, name="x").faults
    assert any("policy, but the model gives only" in fault.fact for fault in remote) == (card.needs is not Policy)


class _Named(Longest):
    """A judge that can be had again by its words."""

    spec = "python:test_contract:Longest"


@pytest.mark.parametrize("name", [n for n in names() if issubclass(find(n).card.gives, Policy)])
def test_a_saved_policy_reloads_to_the_same_samples(name: str, evidence: Evidence, tmp_path: Path) -> None:
    given = Evidence(**{**vars(evidence), "judge": _Named()})
    outcome = truing.build(name, **SETTINGS[name])(make_local(), given, Run())
    assert isinstance(outcome, Policy)
    save_policy(outcome, tmp_path / "saved")
    again = truing.load(str(tmp_path / "saved"))
    assert everything(again) == everything(outcome)
    assert again.fingerprint == outcome.fingerprint


def test_a_wrapper_around_another_model_than_it_was_saved_with_is_refused(tmp_path: Path) -> None:
    save_policy(make_local(), tmp_path / "base")
    base = truing.load(str(tmp_path / "base"))
    save_policy(truing.build("prompt/exemplars")(base, Evidence(), Run()), tmp_path / "wrapped")
    assert truing.load(str(tmp_path / "wrapped")).fingerprint
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    (tmp_path / "base").rmdir()
    save_policy(make_local(seed=2), tmp_path / "base")
    with pytest.raises(truing.core.errors.InputError, match="another"):
        truing.load(str(tmp_path / "wrapped"))


def test_the_shipped_judge_is_a_judge_that_no_law_forgets() -> None:
    judge = ConstraintJudge({"the tin": [{"kind": "max_words", "count": 2}]})
    assert judge.score([CHATS[0]] * 2, ["a hat", "a hat in ink"]) == [1.0, 0.0]


def test_training_starts_where_the_base_is(evidence: Evidence) -> None:
    """One step at rate 0: the loss is log 2, every pair is a tie, and no weight moves."""
    from tiny import Notes

    notes, base = Notes(), make_local()
    settings = {"learning_rate": 0.0, "max_steps": 1, "per_device_train_batch_size": 3, "logging_steps": 1}
    tuned = truing.build("preference/dpo", **settings)(base, evidence, Run(log=notes))
    assert notes.series("loss")[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)
    assert notes.series("rewards/accuracies")[0] == 0.5
    assert abs(notes.series("rewards/margins")[0]) < 1e-5
    assert same_weights(tuned, base)
