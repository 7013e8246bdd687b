"""What the tests of the report share: short ways to write measures down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Spec = Mapping[str, Any]
MakeRun = Callable[..., Path]


def win(value: float, half: float = 0.04, n: int = 100, **more: Any) -> Spec:
    """Settings of a win rate with a symmetric interval."""
    return {"win_rate": {"value": value, "low": value - half, "high": value + half, "n": n, "better": "up", **more}}


def kl(value: float, half: float = 0.05, **more: Any) -> Spec:
    """Settings of a KL."""
    low, high = (None, None) if more.get("kind") == "bound" else (value - half, value + half)
    return {"kl": {"value": value, "low": low, "high": high, "n": 100, "unit": "nats", "better": "down", **more}}
