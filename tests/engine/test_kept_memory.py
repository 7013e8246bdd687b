"""What is freed stays with the process while it is told to, and no longer."""

from __future__ import annotations

import pytest
import torch

from truing.engine import memory
from truing.engine.memory import keeping, resident

MB = 2**20


def held_after(size: int = 200 * MB) -> int:
    """Bytes that are still held once a tensor of so many has come and gone."""
    before = resident()
    torch.ones(size // 4)
    return resident() - before


@pytest.mark.skipif(memory._glibc() is None, reason="another allocator, or one that was set up by hand")
def test_freed_memory_is_kept_within_and_given_back_afterwards() -> None:
    assert held_after() < 50 * MB
    before = resident()
    with keeping():
        assert held_after() > 150 * MB
        with keeping():
            pass
        assert resident() - before > 150 * MB, "the inner end changes nothing"
    assert resident() - before < 50 * MB
    assert held_after() < 50 * MB


def test_an_allocator_that_was_set_up_by_hand_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MALLOC_ARENA_MAX", "2"), ("GLIBC_TUNABLES", "glibc.malloc.top_pad=1"), ("LD_PRELOAD", "x")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert memory._glibc.__wrapped__() is None
