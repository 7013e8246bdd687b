"""Two or more networks merged into one of a wished width: alike units as one, others side by side, layers refitted.

Nasery et al. 2024, arXiv:2407.02447 (PLeaS), for torch modules whose units are declared
(:mod:`truing.models.networks`). The modules are aligned before (:mod:`truing.units.matching`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from truing.core.errors import Fault, InputError
from truing.core.lazy import torch
from truing.units.partial import Partial, merge_tensors
from truing.units.permutations import PermutationSpec
from truing.units.regress import Fitted, layers, refit

Batches = Sequence[Mapping[str, Any]]
"""The arguments of a forward pass each."""


@dataclass(frozen=True)
class Merged:
    """What came of it.

    Attributes:
        tensors: by name, in their new shapes.
        fitted: layer -> how its features' error fell; empty without least squares.
    """

    tensors: Mapping[str, torch.Tensor]
    fitted: Mapping[str, Fitted] = field(default_factory=dict)


def merge_modules(
    modules: Sequence[Any],
    spec: PermutationSpec,
    separate: Mapping[str, torch.Tensor],
    shares: Sequence[float],
    batches: Batches,
    *,
    ridge: float,
    names: Sequence[str] | None = None,
) -> Merged:
    """The tensors of the merged network. With everything separate its outputs are the mean of the models' outputs.

    Args:
        modules: of one architecture, aligned with the first.
        separate: group -> ``(units,)`` bool (:func:`truing.units.partial.least_alike`).
        shares: of each model in what is merged; they sum to 1.
        batches: unlabelled inputs for the least squares; none leaves the block averages.
        ridge: towards the block averages, in mean squares of an input.
        names: layers to refit; by default all that can be.

    Raises:
        InputError: what is to be separate is no group, or passes a norm over all units, whose mean would change.
    """
    partial = Partial(spec, separate, shares)
    widened = {name for name, mask in separate.items() if bool(mask.any())}
    if faults := _normed(modules[0], spec, widened):
        raise InputError(*faults)
    tensors = merge_tensors(partial, [dict(module.state_dict()) for module in modules])
    if not batches:
        return Merged(tensors)
    chosen = layers(modules[0], spec) if names is None else names
    fitted = refit(modules, tensors, partial, batches, ridge=ridge, names=chosen)
    for name, found in fitted.items():
        tensors[f"{name}.weight"] = found.weight
        if found.bias is not None:
            tensors[f"{name}.bias"] = found.bias
    return Merged(tensors, fitted)


def _normed(module: Any, spec: PermutationSpec, widened: set[str]) -> list[Fault]:
    """Groups that a norm over units sees: widened, it would divide by both models' sizes."""
    found = []
    for name, part in module.named_modules():
        batch = isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        axes = spec.tensors.get(f"{name}.weight", ())
        if len(axes) == 1 and not batch and not isinstance(part, torch.nn.modules.conv._ConvNd | torch.nn.Linear):
            groups = {p.group for p in axes[0] if p.group in widened}
            fact = f"passes {name}, whose norm is over all of its units"
            found += [Fault(f"separate.{group}", fact, "Leave it merged.") for group in sorted(filter(None, groups))]
    return found


def with_tensors(module: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """A copy of a module with other tensors, of whatever sizes; layers of torch are told theirs."""
    made = copy.deepcopy(module)
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        owner = made.get_submodule(path)
        if last in owner._parameters:
            setattr(owner, last, torch.nn.Parameter(tensor.clone()))
        else:
            setattr(owner, last, tensor.clone())
    for part in made.modules():
        if isinstance(part, torch.nn.Linear):
            part.out_features, part.in_features = part.weight.shape
        elif isinstance(part, torch.nn.Conv2d):
            part.out_channels, part.in_channels = part.weight.shape[0], part.weight.shape[1] * part.groups
        elif isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.num_features = len(part.running_mean)
    return made


def reestimate(module: Any, batches: Batches) -> None:
    """Batch norms' statistics anew, over all batches alike, in place: the models' own say nothing of their merge."""
    norms = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    with torch.no_grad():
        for batch in batches:
            module(**batch)
    for norm, (momentum, training) in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.train(training)
