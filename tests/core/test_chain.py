"""A chain of steps is typed before a model loads: what each needs, reads and gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.core.recipe import Recipe, parse

PAIRS = [{"prompt": f"Say {word}.", "chosen": word, "rejected": "no"} for word in ("hi", "ho", "ha")]


def made(**keys: Any) -> Recipe:
    """A recipe with pairs, and whatever else is given."""
    return parse({"model": "m", "data": {"pairs": PAIRS}, **keys}, name="made")


def told(recipe: Recipe) -> list[str]:
    """Its faults as they are printed."""
    return [str(fault) for fault in recipe.faults]


@pytest.mark.parametrize(("first", "given"), [("rerank/best_of_n", "a Policy"), ("prompt/exemplars", "a Scorable")])
def test_what_needs_weights_cannot_follow_what_hides_them(first: str, given: str) -> None:
    arm = {"donors": {"tuned": "some/model"}, "steps": [first, "merge/linear"]}
    assert told(made(judge="constraints", arms={"a": arm})) == [
        f"arms.a[1]: merge/linear needs an Editable policy, but {first} gives only {given}. "
        "Swap them, or put a method that trains between."
    ]
    swapped = {**arm, "steps": ["merge/linear", first]}
    assert told(made(judge="constraints", arms={"a": swapped})) == []


def test_an_endpoint_has_no_weights_to_train() -> None:
    assert told(made(model="https://host/v1#x", arms={"a": ["preference/dpo"]})) == [
        "arms.a[0]: preference/dpo needs an Editable policy, but the model gives only a Policy. "
        "Give a model with weights."
    ]


def test_a_wrapped_policy_gives_what_it_gave_when_it_was_saved(tmp_path: Path) -> None:
    """Prompting keeps scores, reranking does not, and neither has weights of its own."""

    def wrapped(name: str, base: str) -> str:
        folder = tmp_path / name.replace("/", "-")
        (folder / "base").mkdir(parents=True)
        (folder / "truing.json").write_text(json.dumps({"method": name, "base": base}), encoding="utf-8")
        return str(folder)

    prompted = wrapped("prompt/exemplars", "base")
    arms = {"a": ["preference/dpo"]}
    for model, given in ((prompted, "a Scorable"), (wrapped("rerank/best_of_n", prompted), "a Policy")):
        (fault,) = told(made(model=model, arms=arms))
        assert f"the model gives only {given}" in fault
    assert told(made(model=wrapped("no/such", "base"), arms=arms)) == []  # told when it is loaded


def test_what_a_step_writes_the_next_may_read() -> None:
    arms = {"a": ["synthesize/best_and_worst", "preference/dpo"]}
    assert told(parse({"model": "m", "data": {"prompts": "p"}, "judge": "constraints", "arms": arms}, name="r")) == []
    shared = {"steps": arms["a"][:1], "arms": {"a": arms["a"][1:]}}
    assert told(parse({"model": "m", "data": {"prompts": "p"}, "judge": "constraints", **shared}, name="r")) == []
    lacking = parse({"model": "m", "data": {"prompts": "p"}, "arms": arms}, name="r")
    assert told(lacking) == ["arms.a[0]: synthesize/best_and_worst reads judge, and nothing gives any. Add 'judge:'."]
