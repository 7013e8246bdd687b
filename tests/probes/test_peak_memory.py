from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from truing.engine import memory as engine_memory
from truing.engine.memory import resident
from truing.probes import memory
from truing.probes.memory import Peak

BIG = 96 << 20


def test_it_sees_what_was_there_and_is_gone() -> None:
    before = resident()
    with Peak(interval=0.005) as peak:
        block = np.ones(BIG // 8)
        time.sleep(0.05)
        del block
    assert peak.host - before > 0.8 * BIG
    assert peak.bytes == peak.host + peak.device


def test_a_later_peak_does_not_remember_an_earlier_one() -> None:
    with Peak(interval=0.005) as large:
        block = np.ones(BIG // 8)
        time.sleep(0.05)
        del block
    with Peak(interval=0.005) as small:
        time.sleep(0.02)
    assert large.host - small.host > 0.5 * BIG


def test_an_error_inside_stops_the_thread() -> None:
    peak = Peak()
    with pytest.raises(KeyError), peak:
        raise KeyError
    assert not peak._thread.is_alive()
    assert peak.bytes > 0


def test_a_device_in_use_is_asked_for_its_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        reset_peak_memory_stats=lambda: asked.append("reset"),
        max_memory_allocated=lambda: 12345,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    for module in (memory, engine_memory):
        monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=cuda))
    with Peak() as peak:
        pass
    assert asked == ["reset"]
    assert peak.device == 12345
    assert peak.bytes == peak.host + 12345


def test_without_proc_the_high_water_mark_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_memory, "STATM", engine_memory.STATM / "none")
    assert resident() > 1 << 20
