"""torch and numpy, imported at first use.

Methods, families and the engine write ``from truing.core.lazy import F, np, torch``. So the whole catalogue of
methods can be imported, listed and checked without the second or two that torch itself takes, and the tenth of numpy.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from typing import TYPE_CHECKING, Any

_own = False


def own_process() -> None:
    """Say that this process does nothing else, so that garbage is never looked for among what imports made.

    A library must not say so: what another program had made before would be kept for ever.
    """
    global _own
    _own = True


if TYPE_CHECKING:
    import numpy as np
    import torch as torch
    import torch.nn.functional as F
else:

    @contextlib.contextmanager
    def _undisturbed():
        """Without looking for garbage: an import makes objects that stay, and going through them again and again takes
        a tenth of the time that torch needs, and more of a short run after it."""
        before = gc.isenabled()
        if before:  # a thread that comes while another imports leaves it to that one, which enables it again
            gc.disable()
        try:
            yield
        finally:
            if _own:
                gc.freeze()
            if before:
                gc.enable()

    class _Lazy:
        """A module that is imported when its first attribute is read."""

        def __init__(self, name: str) -> None:
            self._name, self._module = name, None

        def __getattr__(self, attribute: str) -> Any:
            if self._module is None:
                with _undisturbed():
                    self._module = importlib.import_module(self._name)
            return getattr(self._module, attribute)

    np = _Lazy("numpy")
    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")

__all__ = ["F", "np", "own_process", "torch"]
