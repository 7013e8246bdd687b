"""The worked example of CONTRIBUTING.md is true: the file it shows is a method, and the test it shows passes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import truing.methods.preference as family
from truing.core import method
from truing.core.recipe import parse

PAGE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


def test_the_worked_example_is_a_method_and_its_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, test = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "squared_hinge.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(family, "__path__", [*family.__path__, str(tmp_path)])
    _forget()
    try:
        card = method.find("preference/squared_hinge").card
        assert (card.dial, card.reads, card.needs.__name__) == ("beta", {"pairs"}, "Editable")
        arms = {"squared_hinge": [{"preference/squared_hinge": {"beta": [0.1, 0.3]}}]}
        assert parse({"model": "m", "data": {"pairs": "p"}, "arms": arms}, name="n").faults == ()
        space: dict[str, object] = {}
        exec(compile(test, "test_squared_hinge.py", "exec"), space)
        (run,) = [value for name, value in space.items() if name.startswith("test_")]
        assert callable(run)
        run()
    finally:
        _forget()


def _forget() -> None:
    method.names.cache_clear()
    method.find.cache_clear()
    sys.modules.pop("truing.methods.preference.squared_hinge", None)
