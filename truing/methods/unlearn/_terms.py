"""Terms that several members share."""

from __future__ import annotations

from typing import Literal

from truing.core.lazy import torch
from truing.methods.unlearn._forget import ForgetLogps

Scale = Literal["token", "reply"]
"""``token`` divides a reply's log-probability by its own length; ``reply`` leaves the sum."""


def ascent(forgotten: ForgetLogps, scale: Scale) -> torch.Tensor:
    """The log-probability of what is to be forgotten, ``(B,)``: its descent is ascent on the likelihood's loss."""
    return forgotten.per_token if scale == "token" else forgotten.forgotten
