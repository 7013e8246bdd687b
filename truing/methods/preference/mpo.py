"""Mixed preference optimisation: a weighted sum of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import Annotated

from annotated_types import Gt

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.method import build, find, method
from truing.core.policy import Editable
from truing.core.run import Run
from truing.core.trees import Extras, Tree
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._reference import NoReference, Reference

OWN = ("reference", "memory", "perturbation", "trees")
"""What a part may not bring along: a sum has one of each."""


def mpo_loss(losses: Sequence[torch.Tensor], *, weights: Sequence[float]) -> torch.Tensor:
    """``sum_k w_k L_k``. Wang et al. 2024, arXiv:2411.10442. The gradient is the same sum of gradients.

    Args:
        losses: of each objective, ``(B,)``.
        weights: of each objective; nothing is normalised.

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum(0)


@method(paper="arXiv:2411.10442", dial="beta", neutral={"max_steps": 0})
class MPO(PreferenceMethod):
    """A weighted sum of any objectives of this family; by default preference, quality and generation, as published.

    The rewards that are logged are those of the first objective. The published quality loss subtracts a running mean.

    Attributes:
        loss_type: names of this family's methods, ``dpo`` or ``preference/dpo``.
        loss_weights: one a loss.
        loss_settings: fields of each loss that are not its defaults; one mapping a loss, or none at all.
        beta: for every loss that has one and is not given another.
    """

    compares = "sums and means"
    loss_type: tuple[str, ...] = ("dpo", "bco_pair", "sft_chosen")
    loss_weights: tuple[float, ...] = (0.8, 0.2, 1.0)
    loss_settings: tuple[Mapping[str, object], ...] = ()
    beta: Annotated[float, Gt(0)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.loss_type)
        if not count or len(self.loss_weights) != count or len(self.loss_settings) not in (0, count):
            told = f"{count} loss_type, {len(self.loss_weights)} loss_weights, {len(self.loss_settings)} loss_settings"
            raise bad(self.card.name, told, "Give as many of each; loss_settings may be left out.")
        for part in self.parts:
            for own in OWN:
                if getattr(type(part), own) is not getattr(PreferenceMethod, own):
                    raise bad(self.card.name, f"{part.card.name} has a {own} of its own", "Sum losses over the base.")

    @cached_property
    def parts(self) -> tuple[PreferenceMethod, ...]:
        """The objectives."""
        return tuple(self._part(i) for i in range(len(self.loss_type)))

    def _part(self, i: int) -> PreferenceMethod:
        name = f"preference/{self.loss_type[i].removeprefix('preference/')}"
        kind = find(name)
        shared = {"beta": self.beta} if "beta" in {f.name for f in fields(kind)} else {}
        made = build(name, **{**shared, **(self.loss_settings[i] if self.loss_settings else {})})
        if not isinstance(made, PreferenceMethod):
            raise bad(self.card.name, f"{name} is no loss of pairs", "Name an objective of this family.")
        return made

    @property
    def sees_step(self) -> bool:
        return any(part.sees_step for part in self.parts)

    @property
    def extras(self) -> Extras:
        return Extras(collisions=any(part.extras.collisions for part in self.parts))

    def of_step(self, step: PairLogps) -> torch.Tensor:
        return torch.stack([part.of_step(step) for part in self.parts], 1)

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        said = [None] * len(self.parts) if pairs.of_step is None else pairs.of_step.unbind(1)
        losses = [part.loss(replace(pairs, of_step=each)) for part, each in zip(self.parts, said, strict=True)]
        return mpo_loss(losses, weights=self.loss_weights)

    def rewards(self, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
        return self.parts[0].rewards(pairs)

    def reference(self, base: Editable, trees: Sequence[Tree], run: Run) -> Reference:
        used = any(part.uses_reference for part in self.parts)
        return super().reference(base, trees, run) if used else NoReference()
