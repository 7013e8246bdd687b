"""Checkers of verifiable constraints: pure functions ``(reply, **settings) -> bool``, found by their name.

A new kind is a function with ``@checker`` in one of these modules: its keyword parameters are its settings,
their annotations say what is allowed, and its docstring says what it accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from truing.judges.checkers import form, length, marks, wording

Checker = Callable[..., bool]
KINDS: Mapping[str, Checker] = MappingProxyType(
    {
        name: function
        for module in (length, wording, marks, form)
        for name, function in vars(module).items()
        # Only what `checker` wrapped in this very module: helpers and imported names are no kinds.
        if hasattr(function, "__wrapped__") and function.__module__ == module.__name__
    }
)
