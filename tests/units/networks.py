"""Small networks whose orders are known."""

from __future__ import annotations

from typing import Any

import torch
from tiny import make_model

from truing.models.architecture import describe
from truing.models.architectures.symmetry import permutations
from truing.models.networks import mlp
from truing.units.permutations import PermutationSpec

LAYERS = ("0", "2", "4")


def perceptron(seed: int, *, read: int = 9, wide: int = 7, out: int = 3) -> dict[str, torch.Tensor]:
    """Weights of three layers."""
    numbers = torch.Generator().manual_seed(seed)
    sizes = [(wide, read), (wide, wide), (out, wide)]
    made = {}
    for layer, (rows, columns) in zip(LAYERS, sizes, strict=True):
        made[f"{layer}.weight"] = torch.randn(rows, columns, generator=numbers, dtype=torch.float64)
        made[f"{layer}.bias"] = torch.randn(rows, generator=numbers, dtype=torch.float64)
    return made


def perceptron_spec(weights: Any) -> PermutationSpec:
    return mlp(weights, LAYERS)


def forward(weights: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in LAYERS:
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        x = x if layer == LAYERS[-1] else x.relu()
    return x


def language_model(architecture: str, **settings: Any) -> tuple[Any, PermutationSpec, dict[str, torch.Tensor]]:
    """A tiny model, what may move in it, and its weights without a tied head."""
    model = make_model(architecture, **settings)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    return model, permutations(describe(model.config)), weights
