"""RAM+: what one donor changed is reinforced, the more the more of its changes are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.merge._blend import Site, Stretch
from truing.methods.merge._family import MergeMethod
from truing.methods.merge._vectors import column


def ramplus_merge(deltas: torch.Tensor, *, epsilon: float, factors: Sequence[float]) -> torch.Tensor:
    """The mean of the deltas over the donors that changed a number by more than ``epsilon``; where one alone did, its
    delta times its factor. Reinforced Agent Merging, 2026, arXiv:2601.13572.

    Args:
        deltas: ``(K, *S)``.
        factors: ``1 + r min(rho, alpha)`` of each donor, with ``rho`` its shared changes over its own alone.

    Returns:
        ``(*S)``.
    """
    changed = deltas.abs() > epsilon
    count = changed.sum(0)
    parts = deltas * changed
    alone = (parts * column(factors, deltas)).sum(0)
    return torch.where(count > 1, parts.sum(0) / count.clamp(min=1), alone)


@method(paper="arXiv:2601.13572", dial="lambda_", neutral={"lambda_": 0.0})
class RamplusTl(MergeMethod):
    """Averages changes that several donors made, and reinforces those of one alone.

    How many of a donor's changes are shared is counted tensor by tensor, as in mergekit.

    Attributes:
        r: how strongly.
        alpha: the ratio of shared to own changes counts up to this.
        epsilon: changes up to this size are none.
        lambda_: scales what is added to the base.
    """

    r: Annotated[float, Ge(0)] = 0.1
    alpha: Annotated[float, Ge(0)] = 0.2
    epsilon: Annotated[float, Ge(0)] = 1e-5
    lambda_: float = 1.0

    @property
    def cut(self) -> bool:
        return True

    def survey(self, site: Site) -> list[float]:
        shared, alone = torch.zeros(2, site.count, dtype=torch.int64)
        for at in site.stretches():
            changed = at.deltas.abs() > self.epsilon
            several = changed.sum(0) > 1
            shared += (changed & several).sum(1).cpu()
            alone += (changed & ~several).sum(1).cpu()
        ratios = [int(s) / max(int(a), self.epsilon) if s else 0.0 for s, a in zip(shared, alone, strict=True)]
        return [1 + self.r * min(ratio, self.alpha) for ratio in ratios]

    def blend(self, at: Stretch, found: list[float]) -> torch.Tensor:
        return at.base + self.lambda_ * ramplus_merge(at.deltas, epsilon=self.epsilon, factors=found)
