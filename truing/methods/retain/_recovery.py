"""Steps that give an aligned model's weights back to a fine-tuned one, where that turns it towards refusing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from truing.core.errors import RunError
from truing.core.lazy import F, torch
from truing.core.rng import Rng
from truing.methods.retain._largest import largest, ordered
from truing.models.cut import Cut

Prompts = Sequence[tuple[int, ...]]
Masks = Mapping[str, "torch.Tensor"]
BUDGET = 4096  # tokens a pass of states without gradient


def helps(weight: torch.Tensor, target: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Where a step from ``weight`` to ``target`` goes down the gradient: ``sign(weight - target) = sign(g) != 0``."""
    return torch.sign(weight - target) * torch.sign(gradient) > 0


def mean_state(cut: Cut, prompts: Prompts) -> torch.Tensor:
    """The mean hidden state of prompts, ``(D,)``, without gradient."""
    total, part, size = torch.zeros((), dtype=torch.float64), list[tuple[int, ...]](), 0
    with torch.no_grad():
        for k, prompt in enumerate(prompts):
            part, size = [*part, prompt], size + len(prompt)
            if size >= BUDGET or k == len(prompts) - 1:
                total = total + cut.states(part).double().sum(0)
                part, size = [], 0
    return total / len(prompts)


class Recovery:
    """A fine-tuned model on its way back.

    Args:
        cut: its first blocks, with the weights that may be restored as parameters.
        tuned, aligned: those weights as they were tuned, and as they were before.
        harmful, benign: token ids of prompts.
        directions: mean states of the harmful prompts in the aligned model and of the benign ones in the tuned one.
    """

    def __init__(
        self,
        cut: Cut,
        tuned: Mapping[str, torch.Tensor],
        aligned: Mapping[str, torch.Tensor],
        harmful: Prompts,
        benign: Prompts,
        directions: tuple[torch.Tensor, torch.Tensor],
        batch_size: int,
    ) -> None:
        self.cut, self.tuned, self.aligned = cut, tuned, aligned
        self.harmful, self.benign, self.batch_size = harmful, benign, batch_size
        self.directions = directions

    def restore(self, count: int, *, signed: bool, by: Literal["gradient", "random"], rng: Rng) -> tuple[Masks, float]:
        """Give back ``count`` entries at most: those with the largest gradient, or any.

        Args:
            signed: whether only entries for which it :func:`helps` are looked at.
            rng: of random entries, for which the gradient is not read at all.

        Returns:
            Which ones, and the mean cosine of the harmful prompts' states before.
        """
        cosine = self._descend(self.harmful, self.directions[0])
        weights = self.cut.parameters
        among = {name: weight.detach() != self.aligned[name] for name, weight in weights.items()}
        if by == "random":
            scores = {name: _any_order(weight, rng.child(name)) for name, weight in weights.items()}
        else:
            slopes = {name: _slope(weight) for name, weight in weights.items()}
            scores = {name: ordered(slope) for name, slope in slopes.items()}
            if signed:
                among = {n: mask & helps(weights[n].detach(), self.aligned[n], slopes[n]) for n, mask in among.items()}
        chosen = largest(scores, among, count)
        self._overwrite(chosen, self.aligned)
        return chosen, cosine

    def roll_back(self, restored: Masks, rate: float) -> Masks:
        """Of what was just restored, give a share back to the tuned model: where that helps its task most."""
        self.forget_gradient()
        self._descend(self.benign, self.directions[1])
        weights = self.cut.parameters
        slopes = {name: _slope(weight) for name, weight in weights.items()}
        among = {n: mask & helps(weights[n].detach(), self.tuned[n], slopes[n]) for n, mask in restored.items()}
        count = math.ceil(rate * sum(int(mask.sum()) for mask in among.values()))
        chosen = largest({name: ordered(slope) for name, slope in slopes.items()}, among, count)
        self._overwrite(chosen, self.tuned)
        self.forget_gradient()
        return chosen

    def reload(self) -> None:
        """Be the tuned model again."""
        with torch.no_grad():
            for name, weight in self.cut.parameters.items():
                weight.copy_(self.tuned[name])
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Begin to add gradients up anew."""
        self.cut.module.zero_grad(set_to_none=True)

    def cosine(self) -> float:
        """Of the mean state of the harmful prompts with the aligned model's."""
        return float(F.cosine_similarity(mean_state(self.cut, self.harmful), self.directions[0], dim=0))

    def _descend(self, prompts: Prompts, direction: torch.Tensor) -> float:
        """Add the gradient of minus the cosine, batch by batch; the mean cosine."""
        found = []
        for begin in range(0, len(prompts), self.batch_size):
            states = self.cut.states(prompts[begin : begin + self.batch_size])
            cosine = F.cosine_similarity(states.mean(0), direction.to(states), dim=0)
            (-cosine).backward()
            found.append(float(cosine.detach()))
        if not all(map(math.isfinite, found)):
            raise RunError("retain/recover: a hidden state is not finite; nothing was restored. Look at the donor.")
        return sum(found) / len(found)

    def _overwrite(self, masks: Masks, source: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                weight = self.cut.parameters[name]
                weight.copy_(torch.where(mask, source[name].to(weight), weight))


def _slope(weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _any_order(weight: torch.Tensor, rng: Rng) -> torch.Tensor:
    drawn = rng.numpy().integers(0, 2**31 - 1, size=tuple(weight.shape), dtype="int32")
    return torch.from_numpy(drawn).to(weight.device)
