"""How far the weights of a model in training are from where they began, with gradient."""

from __future__ import annotations

from dataclasses import dataclass

from truing.core.lazy import torch
from truing.core.policy import Editable


@dataclass(frozen=True)
class Move:
    """The difference of one weight from what it was.

    Attributes:
        left: the whole difference; under adapters ``(out, r)``, scaled as it is added to the weight.
        right: under adapters ``(r, in)``, so that ``left @ right`` is the difference; else None.
        transposed: whether the weight is stored ``(in, out)``, which matters under adapters alone.
    """

    left: torch.Tensor
    right: torch.Tensor | None = None
    transposed: bool = False

    @property
    def dense(self) -> torch.Tensor:
        """The difference as the weight is stored."""
        if self.right is None:
            return self.left
        whole = self.left @ self.right
        return whole.T if self.transposed else whole

    @property
    def squared(self) -> torch.Tensor:
        """The squared 2-norm of the difference, from its factors where it has them."""
        return self.left.square().sum() if self.right is None else inner(self.left, self.left, self.right)


def inner(one: torch.Tensor, other: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``<one right, other right>`` without either product: ``tr((one^T other)(right right^T))``.

    Args:
        one, other: ``(out, r)``.
        right: ``(r, in)``.
    """
    return ((one.T @ other) * (right @ right.T)).sum()


def moves(module: torch.nn.Module, base: Editable) -> dict[str, Move]:
    """The difference of every weight that is trained, by its name in ``base.weights()``.

    Args:
        module: of a workbench that ``base`` opened.
    """
    found: dict[str, Move] = {}
    for name, layer in module.named_modules():
        if "default" in getattr(layer, "lora_A", ()):
            left, right = (getattr(layer, part)["default"].weight for part in ("lora_B", "lora_A"))
            scale = getattr(layer, "scaling")["default"]  # noqa: B009 - peft's layers have no type here
            found[f"{name}.weight"] = Move(scale * left, right, bool(getattr(layer, "fan_in_fan_out", False)))
    if found:
        return found
    began = base.weights()
    named = ((name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad)
    return {name: Move(parameter - began[name].detach()) for name, parameter in named}
