"""What pairs are compared with: the base, scored once; nothing; or a copy that follows the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from truing.core.lazy import torch
from truing.core.policy import Editable
from truing.core.trees import Tree
from truing.engine.fit import Companion
from truing.engine.precision import Precision, autocast


class Reference(Protocol):
    """Log-probabilities of the tokens of some trees."""

    @property
    def companion(self) -> Companion | None:
        """What must be told of every step, and be kept in checkpoints; None where nothing moves."""

    def __call__(self, numbers: Sequence[int]) -> torch.Tensor | None:
        """``(T,)`` nats, reply by reply, for the trees of these numbers; None where there is none."""


class NoReference:
    """For losses that do not read one."""

    companion = None

    def __call__(self, numbers: Sequence[int]) -> None:
        return None


class FixedReference:
    """Scored beforehand.

    Args:
        tokens: ``2 N`` tensors, one a reply, ``(T_i,)`` nats.
    """

    companion = None

    def __init__(self, tokens: Sequence[torch.Tensor]) -> None:
        self.tokens = tokens

    def __call__(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.cat([self.tokens[2 * i + side] for i in numbers for side in (0, 1)])


class MovingReference:
    """A second copy of the weights, scored at every step, that is moved towards the policy.

    Args:
        base: where it begins.
        trees: all trees of the run.
        mix: the share of the policy in it after a move, in (0, 1].
        every: steps from one move to the next, >= 1.
        precision: of its forward passes: the policy's.
    """

    def __init__(
        self, base: Editable, trees: Sequence[Tree], mix: float, every: int, precision: Precision = "float32"
    ) -> None:
        self.bench, self.trees, self.mix, self.every, self.precision = base.open(), trees, mix, every, precision
        self.bench.module.requires_grad_(False).eval()

    @property
    def companion(self) -> Companion:
        return self

    def __call__(self, numbers: Sequence[int]) -> torch.Tensor:
        with torch.no_grad(), autocast(self.precision):
            return self.bench.score([self.trees[i] for i in numbers]).tokens

    def follow(self, module: torch.nn.Module, step: int) -> None:
        """Move, where ``step`` steps have been taken and it is time."""
        if step % self.every:
            return
        with torch.no_grad():
            for own, new in zip(self.bench.module.parameters(), module.parameters(), strict=True):
                own.lerp_(new, self.mix)

    def state(self) -> dict[str, torch.Tensor]:
        """Its weights."""
        return {str(i): tensor.detach() for i, tensor in enumerate(self.bench.module.parameters())}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state`."""
        with torch.no_grad():
            for i, tensor in enumerate(self.bench.module.parameters()):
                tensor.copy_(tensors[str(i)])
