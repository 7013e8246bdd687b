"""What objectives remember from step to step: the confidences of pairs that went before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from truing.core.lazy import torch
from truing.engine.fit import Companion
from truing.methods.preference._pairs import PairLogps


class Memory(Companion, Protocol):
    """Sees every step whole, and says of its pairs what the loss must know, in the light of the steps before."""

    def of_step(self, step: PairLogps) -> torch.Tensor:
        """``(B, ...)``, from the pairs of a whole step, without gradient. Asking changes nothing that is kept."""


def least(values: torch.Tensor, among: torch.Tensor, share: float) -> torch.Tensor:
    """1 where a value is below the quantile ``share`` of ``among``, else 0: ``(B,)``. A share of 0 is nobody."""
    return (values < torch.quantile(among, share)).to(values)


class RecentMargins:
    """Marks the least certain pairs, by a quantile of the margins of the last steps.

    A step is taken in when it is done, so what is held out can be asked about meanwhile.

    Args:
        share: of the pairs seen, those that are least certain, in [0, 1].
        window: steps that are kept, the one that is asked about included, >= 1.
        trusting: steps at the start in which nothing is marked.
    """

    def __init__(self, share: float, window: int, trusting: int) -> None:
        self.share, self.window, self.trusting = share, window, trusting
        self.kept: list[torch.Tensor] = []
        self.steps = 0
        self.latest = torch.zeros(0)

    def of_step(self, step: PairLogps) -> torch.Tensor:
        """1 for the pairs that are doubted, ``(B,)``."""
        self.latest = step.certainty
        if self.steps < self.trusting:
            return torch.zeros_like(self.latest)
        before = [margins.to(self.latest) for margins in self.kept]
        return least(self.latest, torch.cat([*before, self.latest]), self.share)

    def follow(self, module: torch.nn.Module, step: int) -> None:
        """Take in the step that was asked about last."""
        known = [*self.kept, self.latest]
        self.kept = known[max(0, len(known) - self.window + 1) :]  # the next step makes the window full
        self.steps = step

    def state(self) -> dict[str, torch.Tensor]:
        """The margins, how many are of each step, and how many steps there were."""
        counts = torch.tensor([len(margins) for margins in self.kept], dtype=torch.int64)
        return {
            "margins": torch.cat(self.kept) if self.kept else torch.zeros(0),
            "counts": counts,
            "steps": torch.tensor([self.steps]),
        }

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.kept = list(tensors["margins"].split(tensors["counts"].tolist()))
        self.steps = int(tensors["steps"])
