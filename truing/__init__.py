"""Truing: align a language model by any method, and measure what it cost.

The whole public promise, with the verbs of the command line. Everything is imported at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from truing.core.evidence import Evidence as Evidence
    from truing.core.method import Method as Method
    from truing.core.method import build as build
    from truing.core.method import method as method
    from truing.core.policy import Policy as Policy
    from truing.core.recipe import load_recipe as load_recipe
    from truing.core.run import Run as Run
    from truing.methods._saved import load as load
    from truing.pipeline.checking import check as check
    from truing.pipeline.study import evaluate as evaluate
    from truing.pipeline.study import run as run

_HOMES = {
    "Evidence": "truing.core.evidence:Evidence",
    "Method": "truing.core.method:Method",
    "Policy": "truing.core.policy:Policy",
    "Run": "truing.core.run:Run",
    "build": "truing.core.method:build",
    "check": "truing.pipeline.checking:check",
    "evaluate": "truing.pipeline.study:evaluate",
    "load": "truing.methods._saved:load",
    "load_recipe": "truing.core.recipe:load_recipe",
    "method": "truing.core.method:method",
    "run": "truing.pipeline.study:run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'truing' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
