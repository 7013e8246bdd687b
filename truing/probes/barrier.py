"""The barrier: how much worse than its ends the straight path between two models is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.measures import Measure
from truing.core.policy import Editable
from truing.core.run import Run
from truing.probes.bootstrap import ratio_interval
from truing.probes.perplexity import Passages, passage_nats

if TYPE_CHECKING:
    from truing.probes.pool import Array

GRID = tuple(i / 8 for i in range(9))
"""Points of the path, ends included: at ``t`` the weights are ``1 - t`` of the base's and ``t`` of the arm's."""


def barrier(
    policy: Editable, passages: Passages, *, base: Editable, run: Run, grid: Sequence[float] = GRID
) -> list[Measure]:
    """``max over t of loss(t) - ((1 - t) loss(0) + t loss(1))`` on passages, nats a token.

    Frankle et al. 2020 (arXiv:1912.05671) in the form of Ainsworth et al. 2023 (arXiv:2209.04836, Definition 2.2).
    It is at least 0 on a grid with its ends, and 0 where the path is no worse than the line between its ends; to take
    it before and after matching, compare two arms.

    Args:
        policy, base: of one architecture.
        passages: at least one.
        run: the seed of the intervals; its cache keeps what each point of the path gives to each passage.
        grid: in [0, 1], rising; the ends are added where they are lacking.

    Returns:
        ``barrier``, ``barrier.midpoint``, which may be negative, and ``path.T`` for every point: its loss. All in nats
        a token.
        The interval of the maximum is that of the point where it is met: a little too narrow, as it is sought and
        measured on the same passages.

    Raises:
        InputError: no passage, or models of two architectures.
        RunError: a log-probability that is NaN.
    """
    if not passages:
        raise bad("barrier", "there is no neutral text", "Give at least one passage.")
    points = sorted({0.0, 0.5, 1.0, *grid})
    losses: dict[float, Array] = {}
    for t in points:
        losses[t], tokens = passage_nats(at(base, policy, t), passages, run)
    rng = run.rng("probes", "barrier")
    above = {t: losses[t] - (1 - t) * losses[0.0] - t * losses[1.0] for t in points}
    highest = max(points, key=lambda t: float(above[t].sum()))
    note = f"highest at {highest:g} of the way from the base; weights are averaged as they are"

    def told(probe: str, nats: Array, better: str, note: str) -> Measure:
        low, high = ratio_interval(nats, tokens, rng=rng) if np.isfinite(nats).all() else (None, None)
        value = float(nats.sum() / tokens.sum())
        unit = "nats a token"
        return Measure(probe=probe, value=value, low=low, high=high, n=len(nats), unit=unit, better=better, note=note)

    found = [told("barrier", above[highest], "down", note)]
    found.append(told("barrier.midpoint", above[0.5], "down", "halfway, above the mean of the ends"))
    return found + [told(f"path.{t:g}", losses[t], "none", f"loss {t:g} of the way from the base") for t in points]


def at(base: Editable, other: Editable, t: float) -> Editable:
    """The model ``t`` of the way from one to another: ``(1 - t) base + t other``, tensor by tensor.

    Raises:
        InputError: the two have other tensors.
    """
    if t in (0.0, 1.0):
        return other if t else base
    left, right = base.weights(), other.weights()
    odd = [name for name in sorted(left.keys() | right.keys())
           if name not in left or name not in right or left[name].shape != right[name].shape]  # fmt: skip
    if odd:
        raise bad("barrier", f"the two models differ in {odd[0]!r}", "There is a path only within one architecture.")
    with torch.no_grad():
        made = {k: torch.lerp(v.detach().to(_wide(v)), right[k].detach().to(_wide(v)), t).to(v)
                if v.is_floating_point() else v for k, v in left.items()}  # fmt: skip
    return base.with_weights(made)


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
