"""What the verbs print of methods."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from annotated_types import Interval, MinLen

from truing import terminal
from truing.cli import main
from truing.core.method import find, names


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``truing methods`` prints."""
    assert main(["methods", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as into a pipe, whatever the terminal or the runner of the tests says."""
    monkeypatch.delenv("COLUMNS", raising=False)


def test_methods_lists_all_or_one_family(capsys: pytest.CaptureFixture[str]) -> None:
    everything, family = printed(capsys), printed(capsys, "merge")
    assert all(everything.count(f" {name} ") == 1 for name in names())
    assert "merge/linear" in family
    assert "preference/dpo" not in family


def test_one_method_is_told_with_all_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    one = printed(capsys, "preference/dpo")
    (beta,) = [line for line in one.splitlines() if line.split()[:1] == ["beta"]]
    assert beta.split()[1:5] == ["float", ">", "0", "0.1"]
    assert "1/nat" in beta  # the kernel's docstring tells the unit
    assert "arXiv:2305.18290" in one
    rows = {line.split()[0] for line in one.splitlines() if line.strip()}
    assert {field.name for field in dataclasses.fields(find("preference/dpo"))} <= rows


def test_names_of_fields_are_whole_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    one = printed(capsys, "preference/dpo")
    assert "per_device_train_batch_size " in one
    assert max(map(len, one.splitlines()[:-1])) <= 80


def test_types_and_limits_are_told_in_words() -> None:
    nested = tuple[typing.Annotated[int, Interval(gt=0, le=9)], ...]
    assert terminal.type_words(nested) == "list of int"
    assert terminal.range_words(nested) == "> 0, ≤ 9"
    assert terminal.range_words(typing.Annotated[str, MinLen(2)] | None) == "at least 2 long"
    assert terminal.type_words(typing.Literal["a", "b"] | None) == "a | b or null"


def test_meanings_come_from_attributes_and_arguments_with_their_continuations() -> None:
    class Own:
        """A thing.

        Attributes:
            first, second: one text
                over two lines, with ``code``.
            third: another.
        """

    own = terminal.field_meanings(Own)
    assert own["first"] == own["second"] == "one text over two lines, with code."
    assert own["third"] == "another."
