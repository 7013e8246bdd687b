"""What the tests of partial merging share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from truing.units.partial import least_alike
from truing.units.permutations import PermutationSpec

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
HALF = (0.5, 0.5)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def out(module: Any, inputs: Tensor = INPUTS) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(inputs)
    return found


def separated(spec: PermutationSpec, fraction: float, seed: int = 5) -> dict[str, Tensor]:
    """Of every group, that share at random."""
    numbers = torch.Generator().manual_seed(seed)
    return {
        name: least_alike(torch.rand(group.units, generator=numbers), round(fraction * group.units))
        for name, group in spec.groups.items()
        if group.leader is None
    }
