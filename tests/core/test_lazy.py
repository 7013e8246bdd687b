"""What an import on first use does to the process that it happens in."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
from truing.core import lazy
assert "torch" not in sys.modules
{before}
assert float(lazy.torch.ones(2).sum()) == 2 and lazy.torch.ones is sys.modules["torch"].ones
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("before", "wanted"), [("", "True False"), ("lazy.own_process()", "True True"), ("gc.disable()", "False False")]
)
def test_garbage_is_looked_for_as_before(before: str, wanted: str) -> None:
    """Only a program of ours spares itself looking through what imports made."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(before=before)], capture_output=True, text=True)
    assert done.stdout.split() == wanted.split(), done.stderr
