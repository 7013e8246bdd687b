"""The five laws that every method keeps, on a small language model and, where it can be, on a table.

A new method is tested as soon as it is there; what it reads that is not provided here is added to ``evidence``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_local

import truing
from truing.core.artefact import save_policy
from truing.core.errors import InputError
from truing.core.evidence import FIELDS, Demo, Evidence, Judge, Pair, Ranked, Rating
from truing.core.method import LADDER, build, find, names
from truing.core.policy import Editable, Policy, Sampling, Scorable, user
from truing.core.recipe import parse
from truing.core.rng import Rng
from truing.core.run import Run
from truing.judges.resolve import resolve_judge
from truing.methods.prompt.exemplars import Exemplars
from truing.models.local import Local
from truing.models.tabular import Tabular

EVERY = pytest.mark.parametrize("name", names())
ARCHITECTURES = {"model": "llama", "mixture": "mixtral"}
KINDS = {
    "compress": ["mixture"],
    "merge/pleas": ["model"],
    "merge/regmean": ["model"],
    "retain/recover": ["model"],
    "retain/alignguard_lora": ["model"],
}
"""Of base: a model and a table, but for families, and single methods, that are about one kind of model."""
EACH = pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in names() for kind in KINDS.get(name, KINDS.get(name.split("/")[0], ["model", "table"]))],
)
CHATS = tuple(user(text) for text in ("who is in", "the thing", "say it"))
REPLIES = ("the in", "a", "no one at all", "hm")
HOW = Sampling(max_new_tokens=8)
# Settings at which a run takes moments; everything else is the method's default.
QUICK: dict[str, object] = {
    "max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "n": 3, "draws": 6, "max_new_tokens": 8,
    "refusals": ("hm",), "aligned": "a", "steps": 3, "keep_max_new_tokens": 8, "parts": 2, "evaluations": 8, "tax": 1e9,
    "alignment": "likelihood",
}  # fmt: skip


class Length(Judge):
    """Longer is better; importable, so that a saved policy finds it again."""

    name = "length"
    spec = f"python:{__file__}:Length"

    def score(self, chats: Sequence[Any], replies: Sequence[str]) -> list[float]:
        return [float(len(reply)) for reply in replies]


@cache
def policies(kind: str) -> tuple[Editable, Editable, Editable]:
    """A base and two donors."""
    if kind in ARCHITECTURES:
        make = partial(make_local, ARCHITECTURES[kind], max_position_embeddings=2048)
        return make(seed=0), make(seed=1), make(seed=2)
    prompts = (*CHATS, *(Exemplars().rewrite(chat) for chat in CHATS))  # a table answers only what is in it
    logits = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = [Tabular(prompts, REPLIES, part) for part in logits]
    return made[0], made[1], made[2]


def evidence(kind: str, name: str = "") -> Evidence:
    """Something for every field that a method may read. Add to it when a new family reads another.

    A merging method that takes one donor only is given one.
    """
    _, first, second = policies(kind)
    pairs = tuple(Pair(chat, REPLIES[k], REPLIES[k + 1]) for k, chat in enumerate(CHATS))
    demos = tuple(Demo(chat, REPLIES[k]) for k, chat in enumerate(CHATS))
    lists = tuple(Ranked(chat, REPLIES[: k + 2], (0.0, 2.0, 1.0, 2.0)[: k + 2]) for k, chat in enumerate(CHATS))
    ratings = tuple(Rating(chat, REPLIES[k], float(k % 2)) for k, chat in enumerate(CHATS))
    donors: dict[str, Policy] = {"a": first, "b": second}
    if name and getattr(find(name), "counts", (1, None))[1] == 1:
        del donors["b"]
    given = {"prompts": CHATS, "demos": demos, "pairs": pairs, "lists": lists, "ratings": ratings}
    return Evidence(**given, donors=donors, judge=Length())


def quick(name: str, **settings: object) -> Any:
    """The method at settings that take moments."""
    fields = find(name).card.fields
    return build(name, **{key: value for key, value in {**QUICK, **settings}.items() if key in fields})


def run(name: str, kind: str, seed: int = 0, **settings: object) -> Any:
    """What the method makes of base and evidence."""
    return quick(name, **settings)(policies(kind)[0], evidence(kind, name), Run(seed=seed))


def same(left: Any, right: Any) -> bool:
    """Two outcomes: the same evidence, or policies that say the same with the same probability."""
    if isinstance(left, Evidence) and isinstance(right, Evidence):  # donors are equal by what they say
        donors = left.donors.keys() == right.donors.keys() and all(
            same(left.donors[name], right.donors[name]) for name in left.donors
        )
        return donors and replace(left, donors={}) == replace(right, donors={})
    if not isinstance(left, Policy):
        return bool(left == right)
    asked = [policy.sample(CHATS, n=4, sampling=HOW, rng=Rng(7)) for policy in (left, right)]
    alike = asked[0] == asked[1]
    if isinstance(left, Scorable) and isinstance(right, Scorable):
        alike = alike and torch.equal(left.logprob(CHATS, REPLIES[:3]), right.logprob(CHATS, REPLIES[:3]))
    if isinstance(left, Editable) and isinstance(right, Editable):
        ours, theirs = left.weights(), right.weights()
        alike = alike and all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    return alike


def test_every_method_is_seen_and_given_what_it_reads() -> None:
    """Fails when a method appears that this file has nothing for."""
    assert len(names()) >= 7
    for kind in ("model", "table"):
        provided = evidence(kind).provided
        lacking = {name: sorted(find(name).card.reads - provided) for name in names()}
        assert not any(lacking.values()), f"give evidence() these fields: {lacking}"


@EACH
def test_law_0_at_its_usual_settings_something_happens(name: str, kind: str) -> None:
    """Without this the other laws could be kept by doing nothing."""
    outcome = run(name, kind)
    assert isinstance(outcome, find(name).card.gives)
    assert not same(outcome, policies(kind)[0]) if isinstance(outcome, Policy) else outcome.provided


@EACH
def test_law_1_neither_base_nor_evidence_is_changed(name: str, kind: str) -> None:
    base, given = policies(kind)[0], evidence(kind, name)
    names_of_donors = list(given.donors)
    everyone = (base, *(donor for donor in given.donors.values() if isinstance(donor, Editable)))
    before = [{key: tensor.clone() for key, tensor in policy.weights().items()} for policy in everyone]
    fields = ("prompts", "demos", "pairs", "lists", "ratings")
    plain = {field: copy.deepcopy(getattr(given, field)) for field in fields}
    modes = [policy.model.training for policy in everyone if isinstance(policy, Local)]
    outcome = quick(name)(base, given, Run())
    if isinstance(outcome, Policy):
        outcome.sample(CHATS, n=2, sampling=HOW, rng=Rng(0))
    for policy, kept in zip(everyone, before, strict=True):
        now = policy.weights()
        assert now.keys() == kept.keys()
        assert all(torch.equal(now[key], kept[key]) for key in kept)
        assert all(tensor.grad is None for tensor in now.values() if tensor.is_leaf)
    assert {field: getattr(given, field) for field in plain} == plain
    assert list(given.donors) == names_of_donors
    assert modes == [policy.model.training for policy in everyone if isinstance(policy, Local)]
    if isinstance(outcome, Editable):  # nor is it changed by what happens to the outcome later
        with torch.no_grad():
            for tensor in outcome.weights().values():
                if tensor.is_floating_point():
                    tensor.mul_(0)
        assert all(torch.equal(tensor, before[0][key]) for key, tensor in base.weights().items())


@EACH
def test_law_2_the_same_seed_gives_the_same_outcome(name: str, kind: str) -> None:
    first = run(name, kind, seed=5)
    torch.manual_seed(99)  # ambient randomness must not matter
    torch.rand(7)
    assert same(run(name, kind, seed=5), first)


@EACH
def test_law_3_at_its_neutral_settings_nothing_changes(name: str, kind: str) -> None:
    outcome = run(name, kind, **find(name).card.neutral)
    if isinstance(outcome, Policy):
        assert same(outcome, policies(kind)[0])
    else:
        assert outcome == Evidence()


@EVERY
def test_law_4_what_it_reads_is_checked_before_a_model_loads(name: str) -> None:
    """Leave out one field after the other: the recipe has a fault there, which names the method and the field."""
    reads, either = find(name).card.reads, find(name).reads_any
    for lacking in sorted(reads):
        raw: dict[str, Any] = {"model": "there-is-no-such-model", "arms": {"it": {"steps": [name]}}}
        raw["data"] = dict.fromkeys((reads | either) - {lacking, "judge", "donors"}, "somewhere")
        if "judge" in reads - {lacking}:
            raw["judge"] = "constraints"
        if "donors" in reads - {lacking}:
            raw["arms"]["it"]["donors"] = {"a": "somewhere"}
        (fault,) = parse(raw, name="here").faults
        assert (fault.place, fault.fact) == ("arms.it[0]", f"{name} reads {lacking}, and nothing gives any")
        assert lacking in fault.mend


@EVERY
def test_law_4_what_it_needs_is_checked_before_a_model_loads(name: str) -> None:
    """After a method that gives a lower rung, and at an endpoint."""
    card = find(name).card
    if card.needs is Policy:
        return  # everything will do; nothing can be lacking
    rung = "an Editable" if card.needs is Editable else "a Scorable"
    data = dict.fromkeys(FIELDS - {"judge"}, "somewhere")
    arm = {"steps": ["rerank/best_of_n", name], "donors": {"a": "somewhere"}}
    (fault,) = parse({"model": "m", "judge": "constraints", "data": data, "arms": {"it": arm}}, name="here").faults
    assert fault.place == "arms.it[1]"
    assert fault.fact.startswith(f"{name} needs {rung} policy, but rerank/best_of_n gives only")
    (fault,) = parse({"model": "http://x/v1#m", "data": data, "judge": "j", "arms": {"it": [name]}}, name="h").faults
    assert fault.fact.startswith(f"{name} needs {rung} policy, but the model gives only a Policy")
    assert card.needs in LADDER


@EACH
def test_law_4_called_without_what_it_reads_it_refuses(name: str, kind: str) -> None:
    """In Python there is no recipe to check; giving the base back as if nothing were wrong is no answer."""
    if find(name).card.reads:
        with pytest.raises(InputError):
            quick(name)(policies(kind)[0], Evidence(), Run())


@EACH
def test_law_5_a_saved_policy_reloads_to_the_same_samples(name: str, kind: str, tmp_path: Path) -> None:
    outcome = run(name, kind)
    if not isinstance(outcome, Policy):
        return
    save_policy(outcome, tmp_path / "arm")
    loaded = truing.load(str(tmp_path / "arm"))
    assert type(loaded) is type(outcome)
    assert loaded.fingerprint == outcome.fingerprint
    assert same(loaded, outcome)


@pytest.mark.parametrize("name", [name for name, kinds in KINDS.items() if kinds == ["model"]])
def test_what_works_inside_a_model_refuses_a_table(name: str) -> None:
    with pytest.raises(InputError):
        run(name, "table")


def test_the_judge_of_these_laws_can_be_named() -> None:
    assert resolve_judge(Length.spec).score(CHATS[:1], ["four"]) == [4.0]
