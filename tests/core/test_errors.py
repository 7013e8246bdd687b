"""What an error says: place, fact, mend, and every fault of one input."""

from __future__ import annotations

import pytest

from truing.core.errors import Fault, InputError, RunError, TruingError, bad, did_you_mean


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("a.yaml:3", "is wrong", "Mend it."), "a.yaml:3: is wrong. Mend it."),
        (Fault("", "is wrong", "Mend it."), "is wrong. Mend it."),
        (Fault("a", "is wrong"), "a: is wrong."),
        (Fault("a", "is it wrong?"), "a: is it wrong?"),
        (Fault("a", "is wrong."), "a: is wrong."),
    ],
)
def test_a_fault_reads_as_sentences(fault: Fault, text: str) -> None:
    assert str(fault) == text


def test_an_input_error_tells_every_fault_a_line() -> None:
    error = InputError(Fault("a", "one"), Fault("b", "two", "Mend."))
    assert str(error).split("\n") == ["a: one.", "b: two. Mend."]
    assert [fault.place for fault in error.faults] == ["a", "b"]
    assert list(bad("p", "f", "m").faults) == [Fault("p", "f", "m")]


def test_the_two_kinds_share_a_root_and_nothing_else() -> None:
    assert issubclass(InputError, TruingError)
    assert issubclass(RunError, TruingError)
    assert not issubclass(InputError, RunError)
    assert not issubclass(RunError, InputError)


def test_the_closest_word_is_offered_else_all_of_them() -> None:
    assert did_you_mean("betta", ["beta", "alpha"]) == "Did you mean 'beta'?"
    assert did_you_mean("zzz", ["beta", "alpha"]) == "Known: alpha, beta."
    assert did_you_mean("tuned/dpo", ["preference/dpo", "merge/linear"]) == "Did you mean 'preference/dpo'?"
    assert did_you_mean("zzz", []) == ""
