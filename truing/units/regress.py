"""Layers refitted to reproduce features: one ridge regression a layer, from sums that calibration leaves.

What a merged layer should do is known from the original models: their inputs and outputs, arranged as the merged
network arranges its units. So layers do not wait for each other. Nasery et al. 2024, arXiv:2407.02447, Section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import F, torch
from truing.units.partial import MERGED, Partial, Place, writes
from truing.units.permutations import PermutationSpec


@dataclass(frozen=True)
class Fitted:
    """A layer's refit: its new weight and bias, and the mean squared error of the features before and after."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    before: float
    after: float


@dataclass
class _Sums:
    """Of one layer: ``(n, n)`` inputs with inputs, ``(m, n)`` outputs with inputs, outputs squared, and how many."""

    xx: torch.Tensor
    yx: torch.Tensor
    yy: torch.Tensor
    count: int = 0


def layers(module: Any, spec: PermutationSpec) -> list[str]:
    """Linear layers and convolutions of one group whose weight a specification describes; a tied head is none."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, kinds)
        and f"{name}.weight" in spec.tensors
        and f"{name}.weight" not in spec.ties
        and getattr(part, "groups", 1) == 1
        and getattr(part, "padding_mode", "zeros") == "zeros"
    ]


def refit(
    modules: Sequence[Any],
    tensors: Mapping[str, torch.Tensor],
    partial: Partial,
    batches: Iterable[Mapping[str, Any]],
    *,
    ridge: float,
    names: Sequence[str],
) -> dict[str, Fitted]:
    """Layers of the merged network, refitted to all models' features on calibration batches.

    The least of ``|W X - Y|^2 + ridge t |W - W0|^2`` with ``t`` the mean square of an input times the samples: near the
    block averages ``W0`` where the features say nothing, and never worse than them on the calibration features. Rows
    of one model's own units read that model's and the merged columns only.

    Args:
        modules: the models, aligned.
        tensors: the merged network's block averages.
        batches: the arguments of a forward pass each; every model gets the same.
        ridge: > 0.
        names: of :func:`layers`.

    Raises:
        InputError: there are no batches.
    """
    sums: dict[str, _Sums] = {}
    for batch in batches:
        found: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
        for module in modules:
            seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            with _watched(module, names, seen), torch.no_grad():
                module(**batch)
            found.append(seen)
        for name in found[0]:
            _add(sums, name, modules[0].get_submodule(name), partial, [seen[name] for seen in found])
    if not sums:
        raise bad("least squares", "no layer was passed", "Give at least one input.")
    return {name: _solved(name, modules[0].get_submodule(name), tensors, partial, sums[name], ridge) for name in sums}


@contextmanager
def _watched(module: Any, names: Sequence[str], seen: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Within it, the last input and output of some layers are put into ``seen``."""

    def keep(name: str) -> Any:
        def told(layer: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            seen[name] = (given[0].detach(), out.detach())

        return told

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _places(partial: Partial, name: str) -> tuple[Place, Place]:
    """Of a layer's outputs and of its inputs."""
    axes = partial.spec.tensors[f"{name}.weight"]
    return partial.place(axes[writes(axes)]), partial.place(axes[1 - writes(axes)])


def _arranged(partial: Partial, place: Place, features: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
    """The models' features as the merged network's: means of what is merged, each its own beside."""
    total = torch.zeros(())
    for model, part in enumerate(features):
        shape = [-1 if k == axis % part.ndim else 1 for k in range(part.ndim)]
        factor = place.writes(model, partial.shares[model]).to(part.device).view(shape)
        total = total + part.double().index_select(axis % part.ndim, place.index.to(part.device)) * factor
    return total


def _add(
    sums: dict[str, _Sums], name: str, layer: Any, partial: Partial, found: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    out, read = _places(partial, name)
    convolves = isinstance(layer, torch.nn.Conv2d)
    axis = 1 if convolves else -1
    x = _arranged(partial, read, [x for x, _ in found], axis)
    y = _arranged(partial, out, [y for _, y in found], axis)
    if convolves:
        x = F.unfold(x, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride)
        x, y = x.transpose(1, 2), y.flatten(2).transpose(1, 2)
    x, y = x.flatten(0, -2), y.flatten(0, -2)
    if layer.bias is not None:
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    if name not in sums:
        zeros = x.new_zeros
        sums[name] = _Sums(zeros(x.shape[1], x.shape[1]), zeros(y.shape[1], x.shape[1]), zeros(()))
    here = sums[name]
    here.xx += x.T @ x
    here.yx += y.T @ x
    here.yy += y.square().sum()
    here.count += len(x)


def _solved(
    name: str, layer: Any, tensors: Mapping[str, torch.Tensor], partial: Partial, sums: _Sums, ridge: float
) -> Fitted:
    start = tensors[f"{name}.weight"]
    weight = start.detach().double().flatten(1)
    out, read = _places(partial, name)
    width = weight.shape[1] // len(read.index)
    if layer.bias is not None:
        weight = torch.cat([weight, tensors[f"{name}.bias"].detach().double()[:, None]], 1)
    weight = weight.to(sums.xx.device)
    pull = ridge * sums.xx.diagonal().mean() * torch.eye(len(sums.xx), dtype=torch.float64, device=weight.device)
    rest, new = sums.yx - weight @ sums.xx, weight.clone()
    for owner in range(MERGED, len(partial.shares)):
        rows = (out.owner == owner).nonzero().squeeze(1).to(weight.device)
        mask = torch.ones(len(read.index)) if owner == MERGED else read.reads(owner)
        columns = mask.repeat_interleave(width).nonzero().squeeze(1).to(weight.device)
        if layer.bias is not None:
            columns = torch.cat([columns, columns.new_tensor([weight.shape[1] - 1])])
        if len(rows):
            inner = (sums.xx + pull)[columns][:, columns]
            step = torch.linalg.solve(inner, rest[rows][:, columns].T).T
            new[rows[:, None], columns] += step
    scale = max(1, sums.count * len(weight))

    def error(w: torch.Tensor) -> float:
        return float(((w @ sums.xx * w).sum() - 2 * (w * sums.yx).sum() + sums.yy).clamp_min(0)) / scale

    split = weight.shape[1] - (layer.bias is not None)
    bias = new[:, split].to(start.dtype) if layer.bias is not None else None
    return Fitted(new[:, :split].reshape(start.shape).to(start.dtype), bias, error(weight), error(new))
