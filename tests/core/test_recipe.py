"""Recipes: what is wrong is told all at once, with place, fact and mend; what is right becomes points of curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import InputError
from truing.core.method import find
from truing.core.policy import Sampling
from truing.core.recipe import Recipe, load_recipe, numbers, parse, recipe_for_method
from truing.pipeline import checking

PAIRS = [{"prompt": f"Say {word}.", "chosen": word, "rejected": "no"} for word in ("hi", "ho", "ha")]


def read(folder: Path, text: str) -> Recipe:
    """A recipe by way of a file."""
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return load_recipe(file)


def made(**keys: Any) -> Recipe:
    """A recipe with pairs, and whatever else is given."""
    return parse({"model": "m", "data": {"pairs": PAIRS}, **keys}, name="made")


def told(recipe: Recipe) -> list[str]:
    """Its faults as they are printed."""
    return [str(fault) for fault in recipe.faults]


def test_six_different_faults_are_told_at_once(tmp_path: Path) -> None:
    recipe = read(
        tmp_path,
        """
        modle: smollm2
        data: {pears: p.jsonl}
        judge: constrants
        probes: [lenth]
        arms:
          dpo: [preference/dpo: {beta: -1, learning_rat: 1e-6}]
        """,
    )
    with pytest.raises(InputError) as caught:
        checking.check(recipe)
    faults = {(fault.place, fault.fact, fault.mend) for fault in caught.value.faults}
    wanted = {
        ("recipe", "there is no key 'modle'", "Did you mean 'model'?"),
        ("model", "is missing", "Name a folder, a Hub model or 'smollm2'."),
        ("data.pears", "is no kind of evidence", "Did you mean 'pairs'?"),
        ("judge", "there is no judge 'constrants'", "Did you mean 'constraints'?"),
        ("probes[0]", "there is no probe 'lenth'", "Did you mean 'length'?"),
        ("arms.dpo[0]", "preference/dpo has no field 'learning_rat'", "Did you mean 'learning_rate'?"),
        ("arms.dpo[0]", "preference/dpo: beta = -1: should be greater than 0", ""),
        ("arms.dpo[0]", "preference/dpo reads pairs, and nothing gives any",
         "Add 'data.pairs' or put synthesize/best_and_worst before it."),
    }  # fmt: skip
    assert wanted <= faults
    assert len(caught.value.faults) == len(faults), "a fault is told twice"
    assert all(fault.place and fault.fact for fault in caught.value.faults)


def test_a_recipe_without_faults_has_none_and_is_checked(tmp_path: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in PAIRS)
    (tmp_path / "pairs.jsonl").write_text(rows, encoding="utf-8")
    recipe = read(tmp_path, f"model: m\ndata: {{pairs: {tmp_path}/pairs.jsonl}}\narms: {{dpo: [preference/dpo]}}\n")
    assert recipe.faults == ()
    lines = checking.check(recipe).lines
    assert "arms: dpo" in lines
    assert any(line.startswith("data: 3 pairs") for line in lines)


def test_a_sweep_becomes_points_of_one_curve() -> None:
    recipe = made(
        arms={"dpo": [{"preference/dpo": {"beta": [0.1, 0.03], "learning_rate": 1e-3}}], "ipo": "preference/ipo"}
    )
    assert told(recipe) == []
    assert [(p.name, p.curve, p.dial) for p in recipe.points] == [
        ("dpo/beta=0.1", "dpo", ("beta", 0.1)),
        ("dpo/beta=0.03", "dpo", ("beta", 0.03)),
        ("ipo", "ipo", None),
    ]
    assert [p.steps[0].settings for p in recipe.points[:2]] == [
        {"beta": 0.1, "learning_rate": 1e-3},
        {"beta": 0.03, "learning_rate": 1e-3},
    ]


def test_several_fields_make_a_grid_whose_curves_run_along_the_dial() -> None:
    recipe = made(arms={"a": [{"preference/dpo": {"beta": [0.1, 0.2], "learning_rate": [1e-3, 1e-4]}}]})
    assert told(recipe) == []
    assert [(p.name, p.arm, p.curve, p.dial) for p in recipe.points] == [
        ("a/learning_rate=0.001/beta=0.1", "a", "a/learning_rate=0.001", ("beta", 0.1)),
        ("a/learning_rate=0.001/beta=0.2", "a", "a/learning_rate=0.001", ("beta", 0.2)),
        ("a/learning_rate=0.0001/beta=0.1", "a", "a/learning_rate=0.0001", ("beta", 0.1)),
        ("a/learning_rate=0.0001/beta=0.2", "a", "a/learning_rate=0.0001", ("beta", 0.2)),
    ]
    assert [p.steps[0].settings for p in recipe.points] == [
        {"beta": beta, "learning_rate": rate} for rate in (1e-3, 1e-4) for beta in (0.1, 0.2)
    ]


def test_lists_in_two_steps_of_an_arm_make_a_grid() -> None:
    steps = [{"imitation/sft": {"learning_rate": [1e-3, 1e-4]}}, {"preference/dpo": {"learning_rate": [1e-5, 1e-6]}}]
    recipe = made(arms={"a": steps}, data={"pairs": PAIRS, "demos": [{"prompt": "Say hi.", "completion": "hi"}]})
    assert told(recipe) == []
    assert [p.name for p in recipe.points] == [
        f"a/learning_rate={one}/learning_rate={two}" for one in ("0.001", "0.0001") for two in ("1e-05", "1e-06")
    ]


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/../b", ".hidden", "", "a\\b"])
def test_an_arms_name_is_that_of_a_folder_inside_the_run(name: str) -> None:
    assert any("cannot be the name of a folder" in line for line in told(made(arms={name: ["preference/ipo"]})))


def test_only_numbers_are_swept() -> None:
    words = made(arms={"a": [{"preference/dpo": {"beta": ["x", True]}}]})
    assert {"arms.a[0]: beta sweeps 'x'. Sweep numbers.", "arms.a[0]: beta sweeps True. Sweep numbers."} <= set(
        told(words)
    )


def test_a_fault_of_every_point_of_a_sweep_is_told_once() -> None:
    recipe = made(arms={"a": [{"preference/dpo": {"beta": [0.1, 0.2, 0.3], "odd": 1}}]})
    assert len([line for line in told(recipe) if "odd" in line]) == 1


def test_a_fault_of_one_point_of_a_sweep_is_told() -> None:
    assert told(made(arms={"a": [{"preference/dpo": {"beta": [0.1, 0]}}]})) == [
        "arms.a[0]: preference/dpo: beta = 0: should be greater than 0."
    ]


@pytest.mark.parametrize("twice", [{"a/beta=0.1": ["preference/ipo"]}, {"base": ["preference/ipo"]}])
def test_names_of_arms_are_their_own(twice: dict[str, Any]) -> None:
    recipe = made(arms={"a": [{"preference/dpo": {"beta": [0.1]}}], **twice})
    assert told(recipe) == [
        f"arms.{next(iter(twice))}: {next(iter(twice))!r} is there twice. Give every arm its own name."
    ]


def merging(source: str) -> dict[str, Any]:
    """An arm that merges one donor."""
    return {"donors": {"tuned": source}, "steps": ["merge/linear"]}


def test_a_donor_is_an_arm_above_or_a_model() -> None:
    dpo = [{"preference/dpo": {"beta": [0.1]}}]
    assert told(made(arms={"dpo": dpo, "merge": merging("arms.dpo/beta=0.1")})) == []
    assert told(made(arms={"merge": merging("some/model")})) == []
    unknown = made(arms={"dpo": dpo, "merge": merging("arms.dpo/beta=0.2")})
    assert told(unknown) == [
        "arms.merge.donors.tuned: there is no arm 'dpo/beta=0.2' above it. Did you mean 'dpo/beta=0.1'?"
    ]
    later = made(arms={"merge": merging("arms.dpo/beta=0.1"), "dpo": dpo})
    assert told(later) == [
        "arms.merge.donors.tuned: there is no arm 'dpo/beta=0.1' above it. Arms may use only arms above them."
    ]


def test_a_donor_must_have_weights() -> None:
    recipe = made(judge="constraints", arms={"bon": ["rerank/best_of_n"], "merge": merging("arms.bon")})
    assert told(recipe) == [
        "arms.merge.donors.tuned: 'bon' gives no weights. Only an arm with weights of its own can be merged."
    ]


def test_a_merge_without_donors_is_refused() -> None:
    assert told(made(arms={"merge": ["merge/linear"]})) == [
        "arms.merge[0]: merge/linear reads donors, and nothing gives any. Give the arm 'donors:'."
    ]


def test_steps_without_arms_are_one_arm() -> None:
    recipe = made(steps=["preference/dpo"])
    assert told(recipe) == []
    assert [p.name for p in recipe.points] == ["dpo"]
    assert recipe.shared == ()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("preference/dop", "Did you mean 'preference/dpo'?"),
        ("dpo", "Did you mean 'preference/dpo'?"),
        ("merge/lineer", "Did you mean 'merge/linear'?"),
    ],
)
def test_a_near_miss_of_a_method_is_named(name: str, hint: str) -> None:
    assert f"arms.a[0]: there is no method {name!r}. {hint}" in told(made(arms={"a": [name]}))


@pytest.mark.parametrize("text", ["1e-6", "+1E-6", "1.e-6", "0.000001"])
def test_small_numbers_may_be_written_as_anyone_writes_them(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads 1e-6 as a text."""
    recipe = read(tmp_path, f"model: m\ndata: {{pairs: p}}\narms: {{a: [preference/dpo: {{learning_rate: {text}}}]}}")
    assert recipe.faults == ()
    assert recipe.points[0].steps[0].build().learning_rate == 1e-6  # type: ignore[attr-defined] # DPO's own field


def test_a_sweep_of_such_numbers_is_one_of_numbers(tmp_path: Path) -> None:
    text = "model: m\ndata: {pairs: p}\narms: {a: [preference/dpo: {learning_rate: [1e-6, 2e-6]}]}"
    assert [p.name for p in read(tmp_path, text).points] == ["a/learning_rate=1e-06", "a/learning_rate=2e-06"]


def test_only_numbers_become_numbers() -> None:
    value = {"a": ["1e3", "1e", "e3", "model-1e3", "10"], "b": True, "c": None}
    assert numbers(value) == {"a": [1000.0, "1e", "e3", "model-1e3", "10"], "b": True, "c": None}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("model", 3, "model: is 3. Give a text."),
        ("data", [1], "data: is [1]. Give a mapping."),
        ("seed", "x", "seed: is 'x'. Give a whole number."),
        ("seed", True, "seed: is True. Give a whole number."),
        ("probes", "kl", "probes: is 'kl'. Give a list."),
        ("arms", ["preference/dpo"], "arms: is ['preference/dpo']. Give a mapping."),
        ("steps", "preference/dpo", "steps: is 'preference/dpo'. Give a list."),
        ("evaluate", 4, "evaluate: is 4. Give a mapping."),
        ("evaluate", {"draws": 0}, "evaluate.draws: is 0. Give a number of replies a prompt, 1 or more."),
        ("evaluate", {"draws": "4"}, "evaluate.draws: is '4'. Give a number of replies a prompt, 1 or more."),
        ("evaluate", {"drows": 4}, "evaluate.drows: is not known. Did you mean 'draws'?"),
        ("evaluate", {"limit": "all"}, "evaluate.limit: is 'all'. Give a number of prompts, 1 or more."),
        ("evaluate", {"limit": 0}, "evaluate.limit: is 0. Give a number of prompts, 1 or more."),
        ("evaluate", {"draws": True}, "evaluate.draws: is True. Give a number of replies a prompt, 1 or more."),
        ("sampling", {"top_p": 2}, "sampling: Sampling: top_p = 2: should be less than or equal to 1."),
        ("sampling", {"heat": 2}, "sampling: Sampling has no field 'heat'."),
        ("adapter", 1, "adapter: is 1. Give a text."),
    ],
)
def test_wrong_types_are_told_with_what_would_be_right(key: str, value: object, fault: str) -> None:
    recipe = made(**{"arms": {"a": ["preference/dpo"]}, key: value})
    assert any(line.startswith(fault) for line in told(recipe)), told(recipe)


@pytest.mark.parametrize(
    ("arm", "place"),
    [
        ([3], "arms.a[0]"),
        ([{"preference/dpo": 3}], "arms.a[0]"),
        ([{"preference/dpo": {}, "preference/ipo": {}}], "arms.a[0]"),
        (None, "arms.a[0]"),
        ({"donors": {}}, "arms.a[0]"),
        ({"steps": ["preference/dpo"], "donors": ["x"]}, "arms.a.donors"),
        ({"steps": ["preference/dpo"], "doners": {}}, "arms.a"),
        ([], "arms.a"),
        ([{"preference/dpo": {"beta": []}}], "arms.a[0]"),
    ],
)
def test_an_arm_that_is_no_arm_is_told_and_not_raised(arm: object, place: str) -> None:
    faults = made(arms={"a": arm}).faults
    assert place in [fault.place for fault in faults], faults


def test_a_recipe_without_arms_is_told() -> None:
    assert any(line.startswith("arms: are missing.") for line in told(made()))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"recipe\.yaml.*(is not YAML|is not a mapping)"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_defaults_are_those_of_the_types() -> None:
    recipe = made(arms={"a": ["preference/dpo"]})
    assert recipe.sampling == Sampling()
    assert (recipe.seed, recipe.judge, recipe.adapter) == (0, None, None)
    assert recipe.points[0].steps[0].build() == find("preference/dpo")()


def test_a_method_alone_is_a_recipe_of_one_arm() -> None:
    recipe = recipe_for_method(
        "merge/linear", {"weight": 1}, model="m", data={}, donors={"d": "x/y"}, judge=None, probes=None, seed=3
    )
    assert recipe.faults == ()
    assert (recipe.points[0].name, recipe.points[0].donors, recipe.seed) == ("linear", {"d": "x/y"}, 3)
