"""Rated replies as a loss sees them, and what each is set beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from truing.core.lazy import torch
from truing.core.trees import Tree


@dataclass(frozen=True)
class RatedLogps:
    """Log-probabilities of ``B`` replies, each summed over its tokens, nats.

    Attributes:
        policy: ``(B,)`` under the policy that is trained, with gradient.
        base: ``(B,)`` under its base.
        desirable: ``(B,)`` bool, whether the rating is above the threshold.
        weight: ``(B,)``, what the method weighs each example by, decided before training; None for 1.
        of_step: what the method said of each example when it saw the whole step, ``(B, ...)``; None where it saw none.
        shift: ``()``, the running mean of the rewards of the steps before; None where none is kept.
    """

    policy: torch.Tensor
    base: torch.Tensor
    desirable: torch.Tensor
    weight: torch.Tensor | None = None
    of_step: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    @property
    def ratio(self) -> torch.Tensor:
        """Log-ratio of policy to base, ``(B,)``, nats."""
        return self.policy - self.base

    @property
    def sign(self) -> torch.Tensor:
        """1 where a reply is desirable, -1 where it is not, ``(B,)``."""
        return self.by_side(1.0, -1.0)

    @property
    def surveyed(self) -> torch.Tensor:
        """What was said when the whole step was seen.

        Raises:
            ValueError: nothing was.
        """
        if self.of_step is None:
            raise ValueError("a loss that depends on the whole step needs what was said of it")
        return self.of_step

    def by_side(self, desirable: float, undesirable: float) -> torch.Tensor:
        """One number for the desirable replies and one for the others, ``(B,)``."""
        one = torch.ones_like(self.policy, requires_grad=False)
        return torch.where(self.desirable, desirable * one, undesirable * one)


class RunningMean:
    """The mean of all rewards of the steps so far, or one that forgets. Part of a checkpoint.

    A step's rewards are taken down under their numbers as its passes come and counted once it is over, by all processes
    together: neither its cut nor what shares it decides, and what is only evaluated is not counted.

    Args:
        decay: the share of the old mean in the new one after a step; None is the mean of all rewards alike.
    """

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.mean, self.count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        self._step: list[tuple[list[int], torch.Tensor]] = []

    def note(self, numbers: Sequence[int], rewards: torch.Tensor) -> None:
        """Take down the rewards ``(B,)`` of some examples of the step in progress."""
        self._step.append((list(numbers), rewards.detach()))  # a device is not waited for before the step is over

    def follow(self, module: torch.nn.Module, step: int) -> None:
        """Count the step that is over."""
        from truing.engine.processes import here

        mine = {
            n: reward for numbers, rewards in self._step for n, reward in zip(numbers, rewards.tolist(), strict=True)
        }
        every = {n: reward for part in here().gathered(mine) for n, reward in part.items()}
        self._step = []
        rewards = torch.tensor([every[number] for number in sorted(every)], dtype=torch.float64)
        after = self.count + len(rewards)
        if self.decay is None:
            self.mean = (self.mean * self.count + rewards.sum()) / after
        else:
            self.mean = self.mean.lerp(rewards.mean(), 1 - self.decay)
        self.count = after

    def state(self) -> dict[str, torch.Tensor]:
        """Mean and count."""
        return {"mean": self.mean, "count": self.count}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse of :meth:`state`."""
        self.mean, self.count = tensors["mean"].clone(), tensors["count"].clone()


def mismatched(trees: Sequence[Tree], members: Sequence[int]) -> list[Tree]:
    """Each prompt of a step with the reply of another example of it, to another prompt.

    The step's examples are laid in a ring in the order of the data, and each prompt gets the reply of the next one
    whose prompt is another (the next in the ring where all are the same). So which reply it gets depends on who is in
    the step and on nothing else: not on its order, its cut, or what shares it. A pair that was split into two ratings
    stands side by side in the data, so the next of all would not do. A step of one example takes from all of the data.

    Args:
        trees: all trees of the run, of one reply.
        members: the numbers of the step.

    Returns:
        One tree a member, in their order.
    """
    ring = sorted(members) if len(members) > 1 else list(range(len(trees)))
    alone = len({trees[i].prompt for i in ring}) == 1
    other: dict[int, int] = {}
    for at, after in reversed(list(pairwise([*ring, *ring, ring[0]]))):  # twice, as the last one's is near the first
        apart = alone or trees[at].prompt != trees[after].prompt
        other[at] = after if apart else other.get(after, after)
    return [Tree(trees[i].prompt, trees[other[i]].replies) for i in members]
