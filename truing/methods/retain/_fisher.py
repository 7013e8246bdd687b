"""Where a base is sensitive: second moments of the gradients of what it is to keep saying."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.policy import Editable, Opening
from truing.core.run import Run
from truing.core.trees import Tree
from truing.engine.tree import batches
from truing.models.moved import moves

Scale = Literal["none", "tensor", "model"]
MOST = 1 << 30
"""Bytes of a base's factors that are in memory at a time."""


def trained_names(base: Editable, how: Opening) -> list[str]:
    """The weights that training opened so would move, by their names in ``base.weights()``."""
    return list(moves(base.open(how).module, base))


def diagonal(
    base: Editable, how: Opening, names: Collection[str], trees: Sequence[Tree], run: Run
) -> dict[str, torch.Tensor]:
    """Mean over replies of the squared derivative of a reply's log-probability by each weight, 1/weight^2.

    One backward pass a reply, for a square is of one gradient.

    Args:
        names: the weights, of ``base.weights()``.
        trees: one reply each.
    """
    part = tuple(f"^{re.escape(name)}$" for name in names) if how.lora_r else how.unfrozen_parameters
    bench = base.open(Opening(unfrozen_parameters=part, gradient_checkpointing=how.gradient_checkpointing))
    held = {name: p for name, p in bench.module.named_parameters() if name in names}
    found = {name: torch.zeros_like(p) for name, p in held.items()}
    for done, tree in enumerate(trees):
        bench.module.zero_grad(set_to_none=True)
        bench.score([tree]).sums.sum().backward()
        for name, parameter in held.items():
            if parameter.grad is not None:
                found[name] += parameter.grad.square() / len(trees)
        run.log.progress("fisher", done + 1, len(trees))
    return found


def scaled(fisher: Mapping[str, torch.Tensor], scale: Scale) -> dict[str, torch.Tensor]:
    """Fisher information with mean 1 in every tensor, over the whole model, or as it is; all of it 0 stays 0."""
    sums = {name: values.sum() for name, values in fisher.items()}
    whole = sum(sums.values()) / max(1, sum(values.numel() for values in fisher.values()))
    means = {name: whole if scale == "model" else sums[name] / fisher[name].numel() for name in fisher}
    if scale == "none":
        return dict(fisher)
    return {name: values / means[name] if means[name] > 0 else values for name, values in fisher.items()}


def output_factors(
    base: Editable, how: Opening, trees: Sequence[Tree], budget: int, run: Run, *, most: int = MOST
) -> Iterator[tuple[str, torch.Tensor]]:
    """``S = E[g g^T]`` of every layer with an adapter, ``(out, out)``, with its weight's name; mean 1 on its diagonal.

    ``g`` is the derivative of the summed log-probability of a reply by the layer's output at one position of its prompt
    or of itself; the mean is over positions. It is the output side of a Kronecker-factored Fisher matrix
    (arXiv:1503.05671).

    Args:
        how: opens adapters.
        budget: packed tokens a pass.
        most: bytes of factors that are held at a time; where all take more, the replies are gone through again for
            each part of the layers.
    """
    return _moments(base, how, trees, budget, run, most=most, whole=True)


def output_diagonals(
    base: Editable, how: Opening, trees: Sequence[Tree], budget: int, run: Run
) -> dict[str, torch.Tensor]:
    """The diagonals of :func:`output_factors`, ``(out,)``, without the factors."""
    return dict(_moments(base, how, trees, budget, run, most=MOST, whole=False))


def _moments(
    base: Editable, how: Opening, trees: Sequence[Tree], budget: int, run: Run, *, most: int, whole: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Second moments of the gradients at each adapted layer's output, the ``whole`` matrices or their diagonals."""
    bench = base.open(how)
    widths = {name: len(move.left) for name, move in moves(bench.module, base).items()}
    parts = _groups({name: 4 * width ** (1 + whole) for name, width in widths.items()}, most)
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def forward(module: torch.nn.Module, given: object, output: torch.Tensor) -> None:
            def backward(gradient: torch.Tensor) -> None:
                rows = gradient.detach().flatten(0, -2).to(torch.float32)
                found[name] = (rows.T @ rows if whole else rows.square().sum(0)) + found.get(name, 0.0)

            if output.requires_grad:  # not while the layout is proved
                output.register_hook(backward)

        return forward

    for done, names in enumerate(parts):
        layers = {name: bench.module.get_submodule(name.removesuffix(".weight")) for name in names}
        hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
        for part in batches(trees, budget):
            bench.module.zero_grad(set_to_none=True)
            bench.score([trees[i] for i in part]).sums.sum().backward()
            run.log.progress("fisher", done * len(trees) + part[-1] + 1, len(parts) * len(trees))
        for hook in hooks:
            hook.remove()
        for name in names:
            if name in found:
                moment = found.pop(name)
                size = moment.trace() if whole else moment.sum()
                yield name, moment * (len(moment) / size) if size > 0 else moment


def _groups(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in their order, as many together as come to ``most`` bytes, and at least one."""
    made: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not made or size > room:
            made.append([])
            room = most
        made[-1].append(name)
        room -= size
    return made
