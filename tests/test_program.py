"""The command line as a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "truing", "methods", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no method or family 'nothing'" in done.stderr


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    words = [sys.executable, "-m", "truing", "methods"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
