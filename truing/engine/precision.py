"""In what numbers a forward pass is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from truing.core.lazy import torch

Precision = Literal["float32", "bf16"]
"""``float32`` is the model's own type, whatever it is; ``bf16`` is autocast to bfloat16."""


@contextmanager
def autocast(precision: Precision) -> Iterator[None]:
    """Forward passes within are made in this precision, wherever their tensors lie."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"))
        yield
