"""What a method is: its card from path and signature, its fields checked wherever they come from."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, ClassVar

import pytest
from annotated_types import Gt

from truing.core.errors import InputError
from truing.core.evidence import FIELDS, Evidence
from truing.core.measures import Measures
from truing.core.method import LADDER, Method, build, coerce, field_faults, find, method, names
from truing.core.policy import Editable, Policy, Sampling, Scorable
from truing.core.run import Run

EVERY = pytest.mark.parametrize("name", names())


@EVERY
def test_a_card_says_what_there_is_to_know(name: str) -> None:
    card = find(name).card
    assert card.name == name
    assert card.family == name.split("/")[0]
    assert card.summary.endswith(".")
    assert card.paper.startswith(("arXiv:", "doi:")) or "20" in card.paper
    assert card.needs in LADDER
    assert issubclass(card.gives, Policy | Evidence | Measures)
    assert card.reads <= FIELDS
    assert card.writes <= FIELDS
    assert card.dial in card.fields
    assert set(card.neutral) <= set(card.fields)


@EVERY
def test_defaults_are_valid_and_so_are_the_neutral_settings(name: str) -> None:
    cls = find(name)
    defaults = {field: default for field, (_, default) in cls.card.fields.items()}
    assert field_faults(cls, defaults, "") == []
    assert {field: getattr(cls(), field) for field in defaults} == defaults
    neutral = build(name, **cls.card.neutral)
    assert all(getattr(neutral, field) == value for field, value in cls.card.neutral.items())


@EVERY
def test_settings_cannot_be_changed(name: str) -> None:
    made = build(name)
    with pytest.raises(FrozenInstanceError):
        setattr(made, made.card.dial, 3)
    assert made == build(name)
    assert hash(made) == hash(build(name))


def test_names_are_paths_in_order() -> None:
    assert list(names()) == sorted(names())
    assert {"preference/dpo", "merge/linear", "prompt/exemplars"} <= set(names())
    assert not any("/_" in name for name in names())


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [("preference/dop", "preference/dpo"), ("dpo", "preference/dpo"), ("best_of", "rerank/best_of_n")],
)
def test_a_name_that_is_almost_right(wrong: str, mend: str) -> None:
    with pytest.raises(InputError) as caught:
        find(wrong)
    assert str(caught.value) == f"there is no method {wrong!r}. Did you mean {mend!r}?"


def test_every_fault_of_a_methods_settings_at_once() -> None:
    with pytest.raises(InputError) as caught:
        build("preference/dpo", beta=0, learning_rat=1, num_train_epochs="many", lr_scheduler_type="square")
    assert [str(fault) for fault in caught.value.faults] == [
        "preference/dpo: beta = 0: should be greater than 0.",
        "preference/dpo has no field 'learning_rat'. Did you mean 'learning_rate'?",
        "preference/dpo: num_train_epochs = 'many': should be a valid number, unable to parse string as a number.",
        "preference/dpo: lr_scheduler_type = 'square': should be 'linear', 'cosine' or 'constant'.",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", -1, None, "x", [0.1]])
def test_no_setting_means_anything_there(value: Any) -> None:
    with pytest.raises(InputError, match="beta"):
        build("preference/dpo", beta=value)
    with pytest.raises(InputError, match="beta"):
        find("preference/dpo")(beta=value)


def test_values_are_of_their_fields_type_wherever_they_come_from() -> None:
    for made in (build("preference/dpo", beta="0.5", max_steps=3.0), find("preference/dpo")(beta="0.5", max_steps="3")):
        assert (made.beta, made.max_steps) == (0.5, 3)
        assert (type(made.beta), type(made.max_steps)) == (float, int)
    assert coerce(Sampling, {"stop": ["a", "b"], "top_k": "3"}) == {"stop": ("a", "b"), "top_k": 3}
    assert coerce(Sampling, {}) == {}


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"min_p": 1.5}])
def test_how_to_draw_is_checked_too(settings: dict[str, float]) -> None:
    (fault,) = field_faults(Sampling, settings, "sampling")
    assert fault.place == "sampling"
    assert fault.fact.startswith(f"Sampling: {next(iter(settings))} = ")


@dataclass(frozen=True, kw_only=True)
class Family(Method[Scorable, Policy]):
    reads: ClassVar[frozenset[str]] = frozenset({"principles"})
    strength: Annotated[float, Gt(0)] = 2.0

    def __call__(self, base: Scorable, evidence: Evidence, run: Run, /) -> Policy:
        return base


def test_a_new_method_is_a_class_and_a_decorator() -> None:
    @method(paper="arXiv:0000.00000", dial="depth", neutral={"depth": 0})
    class Deep(Family):
        """Goes deep.

        And further.
        """

        depth: int = 1

    card = Deep.card
    assert (card.summary, card.needs, card.gives, card.dial) == ("Goes deep.", Scorable, Policy, "depth")
    assert card.reads == {"principles"}
    assert card.writes == frozenset()
    assert list(card.fields) == ["strength", "depth"]
    assert card.fields["depth"] == (int, 1)
    assert Deep(depth="4").depth == 4  # type: ignore[arg-type] # what a command line gives
    assert Deep.gives_on(Editable) is Policy


def test_a_dial_that_is_no_field_is_the_authors_mistake() -> None:
    with pytest.raises(TypeError, match=r"Wrong: dial or neutral names no field: \['bata', 'steps'\]"):

        @method(paper="arXiv:0000.00000", dial="bata", neutral={"steps": 0})
        class Wrong(Family):
            """Is wrong."""
