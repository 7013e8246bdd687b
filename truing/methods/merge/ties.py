"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import each
from truing.methods.merge._magnitude import bars, trimmed
from truing.methods.merge._rank import Bar
from truing.methods.merge._vectors import SparseMethod


@method(paper="arXiv:2306.01708", dial="density", neutral={"lambda_": 0.0})
class Ties(SparseMethod):
    """Trims small differences, elects a sign for each number, and averages the differences that have it.

    Of each task vector the ``floor(density * n)`` largest of a tensor are kept, at least one; the paper takes them over
    the whole model, mergekit and Truing tensor by tensor.
    """

    agree: ClassVar[bool] = True

    normalize: bool = True

    def look(self, site: Site) -> list[list[Bar]]:
        shares = each(self.density, site.count)
        return bars(site, [[max(int(density * site.size), density > 0)] for density in shares])

    def thin(self, at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor:
        return trimmed(at, found)
