"""Saved measures in, one page out. Never loads a model."""

from __future__ import annotations

from truing.report.write import write as write

__all__ = ["write"]
