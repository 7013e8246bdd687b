"""Breadcrumbs' masks: neither the smallest differences nor the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truing.core.lazy import torch
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import each
from truing.methods.merge._magnitude import bars, outlier_ranks, trimmed
from truing.methods.merge._rank import Bar
from truing.methods.merge._vectors import Shares, SparseMethod


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsMethod(SparseMethod):
    """Task vectors without outliers of either kind.

    Attributes:
        gamma: the share of the largest that is left out; the paper's beta. Of the smallest, as many are left out as
            ``density`` asks for.
    """

    gamma: Shares = 0.01

    def look(self, site: Site) -> list[list[Bar]]:
        shares = zip(each(self.density, site.count), each(self.gamma, site.count), strict=True)
        return bars(site, [outlier_ranks(site.size, *share) for share in shares])

    def thin(self, at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor:
        return trimmed(at, found)
