"""Fixtures for every test. torch is imported only where one is asked for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from truing.machine import settle_kernels

settings.register_profile("truing", deadline=None, derandomize=True, database=None)
settings.load_profile("truing")

if TYPE_CHECKING:
    from tiny import Notes

    from truing.models.local import Local


settle_kernels()  # as the command line does, before torch loads: the same sums in this process and in those it starts

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; the tests of Ctrl-C send one
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Letters, three merged pieces, a chat template."""
    from tiny import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """Random models by architecture, each made once; nobody may change them."""
    from tiny import make_model

    made: dict[str, Any] = {}

    def get(architecture: str) -> Any:
        if architecture not in made:
            made[architecture] = make_model(architecture)
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def tiny_policy() -> Local:
    """A Llama with grouped queries, the tiny tokenizer and its template."""
    from tiny import make_local

    return make_local()


@pytest.fixture
def notes() -> Notes:
    """A log that keeps what it is told."""
    from tiny import Notes

    return Notes()
