"""Model breadcrumbs: task vectors without their smallest and their largest numbers."""

from __future__ import annotations

from collections.abc import Sequence

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import each
from truing.methods.merge._magnitude import bars, outlier_ranks, trimmed
from truing.methods.merge._rank import Bar
from truing.methods.merge._vectors import Shares, SparseMethod


@method(paper="arXiv:2312.06795", dial="density", neutral={"lambda_": 0.0})
class Breadcrumbs(SparseMethod):
    """Adds up what is neither among the smallest nor among the largest differences.

    Attributes:
        gamma: the share of the largest that is left out; the paper's beta. Of the smallest, as many are left out as
            ``density`` asks for.
    """

    gamma: Shares = 0.01

    def look(self, site: Site) -> list[list[Bar]]:
        shares = zip(each(self.density, site.count), each(self.gamma, site.count), strict=True)
        return bars(site, [outlier_ranks(site.size, *share) for share in shares])

    def keep(self, at: Stretch, found: Sequence[Sequence[Bar]]) -> torch.Tensor | None:
        return trimmed(at, found)
