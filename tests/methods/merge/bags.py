"""Tensors by name as policies, and merges of them one number at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from truing.core.evidence import Evidence
from truing.core.method import Method, build
from truing.core.policy import Chat, Draw, Editable, Policy, Reply, Sampling, Workbench
from truing.core.rng import Rng
from truing.core.run import Run
from truing.core.trees import Tree


class Bag(Editable):
    """Tensors by name, and nothing that could be asked of them."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def weights(self) -> Mapping[str, torch.Tensor]:
        return self.tensors

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Bag:
        return Bag(**weights)

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        raise NotImplementedError

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        raise NotImplementedError

    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        raise NotImplementedError

    def open(self) -> Workbench:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        return "bag"


def random_bag(seed: int, dtype: torch.dtype = torch.float64) -> Bag:
    source = torch.Generator().manual_seed(seed)
    shapes = {"scalar": (), "row": (3,), "matrix": (2, 3)}
    return Bag(**{name: torch.randn(shape, generator=source, dtype=dtype) for name, shape in shapes.items()})


def vector(*numbers: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A tensor of one axis."""
    return torch.tensor(numbers, dtype=dtype)


def merged(
    method: str | Method[Any, Any], base: torch.Tensor, *donors: torch.Tensor, seed: int = 0, **fields: Any
) -> Any:
    """The outcome for one tensor called ``w``."""
    made = build(method, **fields) if isinstance(method, str) else method
    given: dict[str, Policy] = {f"donor{i}": Bag(w=donor) for i, donor in enumerate(donors)}
    return made(Bag(w=base), Evidence(donors=given), Run(seed=seed)).weights()["w"]


def close(left: torch.Tensor, right: Any, tolerance: float = 1e-12) -> None:
    """The same numbers but for rounding."""
    torch.testing.assert_close(left, torch.as_tensor(right, dtype=left.dtype), rtol=tolerance, atol=tolerance)
