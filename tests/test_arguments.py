"""Words on a command line, read one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from truing import arguments
from truing.core.errors import Fault


def test_bare_data_for_a_method_that_reads_two_kinds_is_refused() -> None:
    found, (fault,) = arguments.evidence(["d"], {"prompts", "demos", "judge", "donors"}, "a/b")
    assert found == {}
    assert "a/b reads prompts and demos" in fault.fact
    assert arguments.evidence(["demos=d"], {"prompts", "demos"}, "a/b") == ({"demos": "d"}, [])


def test_a_file_whose_name_looks_like_an_assignment_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b").touch()
    assert arguments.evidence(["a=b"], {"pairs"}, "m") == ({"pairs": "a=b"}, [])
    Path("a=b").unlink()
    assert len(arguments.evidence(["a=b"], {"pairs"}, "m")[1]) == 1


def test_two_sources_of_one_kind_and_two_donors_of_one_name_are_refused() -> None:
    assert len(arguments.evidence(["x", "pairs=y"], {"pairs"}, "m")[1]) == 1
    assert arguments.donors(["a=x", "b=y"]) == ({"a": "x", "b": "y"}, [])
    for wrong in (["a=x", "a=y"], ["=x"], ["a="], ["x"]):
        assert len(arguments.donors(wrong)[1]) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""), (" ", " "), ("null", None), ("no", False), ("'no'", "no"), ("[a, 2E3]", ["a", 2000.0]),
        ("-1.5e-06", -1.5e-6), ("1e", "1e"), ("{a", "{a"), ("q_proj,v_proj", "q_proj,v_proj"),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml_and_never_refused(text: str, value: object) -> None:
    found = arguments.scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_nothing_after_two_dashes_is_an_option() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--known")
    parser.add_argument("--switch", action="store_true")
    words = ["--beta", "1", "--known", "2", "--switch", "x", "--last", "--", "--beta", "3"]
    ours, others = arguments.split(words, parser)
    assert ours == ["--known", "2", "--switch", "x", "--", "--beta", "3"]
    assert others == [("beta", "1"), ("last", True)]


def test_faults_of_a_made_recipe_are_told_in_options() -> None:
    made = Fault("arms.dpo[0]", "preference/dpo reads pairs", "Add 'data.pairs' or put x/y before it.")
    assert str(arguments.as_options(made)) == (
        "preference/dpo reads pairs. Add --data pairs=FILE or put x/y before it."
    )
    assert arguments.as_options(Fault("probes[0]", "no", "")) == Fault("probes[0]", "no", "")
