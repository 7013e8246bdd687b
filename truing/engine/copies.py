"""A whole copy of the model in every process, or in the only one: gradients are added up once a step."""

from __future__ import annotations

from typing import Any

from truing.core.lazy import torch
from truing.engine.spread import Spread, moved


class Copies(Spread):
    """This process alone, or several that each hold all of the model and the optimiser."""

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, rate: float) -> torch.Tensor:
        if self.processes.count > 1:
            self._add_up()
        return moved(self.optimiser, self.parameters, rate, self.most)

    def _add_up(self) -> None:
        """Give every process the gradient of all."""
        touched: list[Any] = self.processes.gathered([p.grad is not None for p in self.parameters])
        for parameter, *by in zip(self.parameters, *touched, strict=True):
            if parameter.grad is None and any(by):  # an expert that only another process's examples were sent to
                parameter.grad = torch.zeros_like(parameter)
        self.processes.add([p.grad for p in self.parameters if p.grad is not None])
