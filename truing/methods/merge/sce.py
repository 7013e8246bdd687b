"""SCE: select by variance, calculate weights, erase minorities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._rank import ALL, Bar, largest
from truing.methods.merge._vectors import column


def sce_merge(deltas: torch.Tensor, selected: torch.Tensor, *, weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean, at each selected number, of the deltas that have the sign of their sum. Wan et al. 2024,
    arXiv:2408.07990, section 3.3.

    Args:
        deltas: ``(K, *S)``.
        selected: ``(*S)`` of booleans: where the donors differ most.
        weights: of each donor; the sign is that of the unweighted sum.
    """
    chosen = deltas * selected
    elected = chosen.sum(0) >= 0
    agreeing = torch.where(elected, chosen > 0, chosen < 0) * column(weights, deltas)
    return (chosen * agreeing).sum(0) / agreeing.sum(0).clamp(min=1e-6)


@dataclass(frozen=True)
class _Found:
    bar: Bar
    weights: list[float]


@method(paper="arXiv:2408.07990", dial="select_topk", neutral={"lambda_": 0.0})
class Sce(MergeMethod):
    """Merges where donors differ most, each weighed by the mean square of its differences, and erases minorities.

    Attributes:
        select_topk: share of the numbers, of those at which the donors are not all alike, that is selected.
        lambda_: scales what is added to the base.
    """

    select_topk: Annotated[float, Ge(0), Le(1)] = 1.0
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    def survey(self, site: Site) -> _Found:
        bar = ALL
        if self.select_topk < 1:
            varied = sum(int(_variance(at).count_nonzero()) for at in site.stretches())

            def sizes() -> Iterator[tuple[int, torch.Tensor]]:
                for at in site.stretches():
                    yield at.start, _variance(at)[None]

            ((bar,),) = largest(sizes, [[int(varied * self.select_topk)]], site.size)
        squares = torch.zeros(site.count, dtype=torch.float64)
        for at in site.stretches():
            squares += (at.deltas * self._selected(at, bar)).square().sum(1, dtype=torch.float64).cpu()
        total = float(squares.sum())
        return _Found(bar, [float(s) / total if total else 1 / site.count for s in squares])

    def blend(self, at: Stretch, found: _Found) -> torch.Tensor:
        return at.base + self.lambda_ * sce_merge(at.deltas, self._selected(at, found.bar), weights=found.weights)

    def _selected(self, at: Stretch, bar: Bar) -> torch.Tensor:
        return bar.over(_variance(at), at.start)


def _variance(at: Stretch) -> torch.Tensor:
    return at.deltas.var(0, unbiased=False)
