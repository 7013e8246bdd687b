"""Matching by the loss halfway between two networks, with a gradient that passes the assignment straight through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from truing.core.lazy import torch
from truing.core.rng import Rng
from truing.units.matching import Matched, match_weights
from truing.units.permutations import PermutationSpec, apply

Weights = Mapping[str, "torch.Tensor"]
Gradient = Callable[[Weights, int], tuple[float, Weights]]
"""From weights and the number of the step to the loss there and its gradient, tensor by tensor."""


def straight_through(
    spec: PermutationSpec,
    anchor: Weights,
    other: Weights,
    gradient: Gradient,
    *,
    steps: int,
    learning_rate: float,
    momentum: float,
    max_sweeps: int,
    rng: Rng,
) -> Matched:
    """The order of ``other`` with the least loss halfway to the anchor. arXiv:2209.04836, Algorithm 2.

    Free weights begin at the anchor's. At every step ``other`` is matched to them, the loss is taken halfway between
    the anchor and the reordered other, and the free weights take the gradient as if they were the latter. The best
    order that was seen is kept, by the loss of its own step; the first one is that of :func:`match_weights`.

    Args:
        gradient: the loss and its gradient; steps may draw batches by their number.
        steps, learning_rate, momentum: of stochastic gradient descent on the free weights.
        max_sweeps: of each matching, which begins from the order before it.

    Returns:
        The order; ``objective`` holds the loss of every step.

    Raises:
        InputError: the two differ in a tensor's name or shape, or one is not finite.
    """
    names = [name for name in spec.tensors if name in anchor and name not in spec.ties and name not in spec.silent]
    free = {name: anchor[name].detach().clone() for name in names}
    speed = {name: torch.zeros_like(free[name]) for name in names}
    found = best = match_weights(spec, anchor, other, max_sweeps=max_sweeps, rng=rng)
    losses: list[float] = []
    for step in range(steps):
        if step:
            child = rng.child("step", step)
            start = found.permutation
            found = match_weights(spec, {**anchor, **free}, other, max_sweeps=max_sweeps, rng=child, start=start)
        there = apply(spec, found.permutation, other)
        half = {k: (v.detach() + there[k].detach()) / 2 if v.is_floating_point() else v for k, v in anchor.items()}
        loss, slope = gradient(half, step)
        best = found if not losses or loss < min(losses) else best
        losses.append(loss)
        for name in names:
            speed[name].mul_(momentum).add_(slope[name].detach().to(free[name]), alpha=0.5)
            free[name].sub_(speed[name], alpha=learning_rate)
    return Matched(best.permutation, tuple(losses), best.sweeps)


def module_gradient(
    module: torch.nn.Module, loss: Callable[[Callable[[torch.Tensor], torch.Tensor], int], torch.Tensor]
) -> Gradient:
    """The gradient of any loss of a torch module.

    Args:
        loss: from the module as a function of its input, and the number of the step, to the loss.
    """

    def gradient(weights: Weights, step: int) -> tuple[float, Weights]:
        leaves = {k: v.detach().clone().requires_grad_(v.is_floating_point()) for k, v in weights.items()}
        value = loss(lambda x: torch.func.functional_call(module, leaves, (x,)), step)
        wanted = {k: v for k, v in leaves.items() if v.requires_grad}
        slopes = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
        zeros = ((k, torch.zeros_like(v) if g is None else g) for (k, v), g in zip(wanted.items(), slopes, strict=True))
        return float(value.detach()), dict(zeros)

    return gradient
