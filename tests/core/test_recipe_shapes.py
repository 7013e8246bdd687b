"""Whatever a recipe says, it is read; what is odd about it is a fault, never a crash."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from truing.core.recipe import parse


def told(text: str) -> list[str]:
    return [str(fault) for fault in parse(yaml.safe_load(text), name="here").faults]


leaves = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats()
    | st.sampled_from(["", "preference/dpo", "rerank/best_of_n", "arms.a", "x", "1e-3"])
)  # fmt: skip
words = [1, None, True, "steps", "donors", "merge/linear", "weight", "pairs", "draws", "beta", "a", "base"]
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(words), inner, max_size=3),
    max_leaves=8,
)
arm = st.lists(
    st.sampled_from(["preference/dpo", "merge/linear", "rerank/best_of_n"]).flatmap(
        lambda name: st.just(name) | st.dictionaries(st.just(name), st.dictionaries(st.sampled_from(words), plain))
    ),
    max_size=3,
)
arms = st.dictionaries(st.sampled_from(words), arm | st.fixed_dictionaries({"steps": arm, "donors": plain}), max_size=3)
KEYS = ["model", "data", "judge", "steps", "probes", "evaluate", "sampling", "seed", "adapter", "name", "x", 7]


@settings(max_examples=250)
@given(st.dictionaries(st.sampled_from(KEYS), plain, max_size=6), arms | plain)
def test_nothing_crashes_it(raw: dict[Any, Any], arms: Any) -> None:
    recipe = parse({**raw, "arms": arms}, name="any")
    for fault in recipe.faults:
        assert fault.place
        assert fault.fact
    assert len({point.name for point in recipe.points}) == len(recipe.points) or recipe.faults
    if not recipe.faults:  # then every step can be built
        assert [step.build() for point in recipe.points for step in point.steps]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("{model: m, arms: {a: [prompt/exemplars: {1: 2}]}}", "arms.a[0]: prompt/exemplars has no field 1."),
        ("{model: m, data: {1: x}, arms: {a: [prompt/exemplars]}}", "data.1: is no kind of evidence."),
        ("{model: m, evaluate: {1: x}, arms: {a: [prompt/exemplars]}}", "evaluate.1: is not known."),
        ("{model: m, arms: {a: {steps: [prompt/exemplars], 1: x}}}", "arms.a: has no key 1."),
    ],
)
def test_keys_that_are_no_words(text: str, start: str) -> None:
    assert any(line.startswith(start) for line in told(text)), told(text)


@pytest.mark.parametrize("donors", ["[arms.dpo]", "arms.dpo", "3"])
def test_donors_are_named(donors: str) -> None:
    found = told(f"{{model: m, arms: {{mix: {{steps: [merge/linear], donors: {donors}}}}}}}")
    assert found[0].startswith("arms.mix.donors: is ")


def test_one_value_twice_is_one_name_twice() -> None:
    text = "{model: m, data: {pairs: p}, arms: {a: [preference/dpo: {beta: [0.1, 0.1]}]}}"
    assert told(text) == ["arms.a: 'a/beta=0.1' is there twice. Give every arm its own name."]


def test_an_empty_list_is_no_arm_and_says_so() -> None:
    text = "{model: m, data: {pairs: p}, arms: {a: [preference/dpo: {beta: []}], b: [preference/dpo]}}"
    assert told(text) == ["arms.a[0]: beta sweeps nothing. Give the values, or one value."]
