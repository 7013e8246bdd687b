"""torch and numpy, imported at first use.

Methods, families and the engine write ``from truing.core.lazy import F, np, torch``. So the whole catalogue of
methods can be imported, listed and checked without the second or two that torch itself takes, and the tenth of numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch as torch
    import torch.nn.functional as F
else:

    class _Lazy:
        """A module that is imported when its first attribute is read."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    np = _Lazy("numpy")
    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")

__all__ = ["F", "np", "torch"]
