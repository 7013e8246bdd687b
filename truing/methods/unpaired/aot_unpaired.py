"""Alignment by optimal transport, on single replies."""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import F, torch
from truing.core.method import method
from truing.methods.unpaired._family import RatedLogps, UnpairedMethod


def aot_unpaired_loss(
    rated: RatedLogps, matched: torch.Tensor, share: torch.Tensor, *, beta: float, label_smoothing: float
) -> torch.Tensor:
    """Raises all quantiles of the desirable log-ratios over those of the others. Melnyk et al. 2024, arXiv:2406.05882.

    A step's loss is ``sum_ij w_ij softplus(-beta (u_i - v_j))``: its desirable log-ratios ``u`` and the others ``v``,
    both sorted, and ``w`` the overlap of their quantiles, 1 over their number where there are as many of both (TRL's
    ``aot_unpaired``). The gradient in ``u_i`` is ``-beta sum_j w_ij (sigmoid(-beta (u_i - v_j)) - label_smoothing)``,
    that in ``v_j`` plus the same sum over i: the order is constant around almost every ``u`` and ``v``.

    A couple is told by both of its ends, each of which may lie in another forward pass: half of its value by each, and
    by each the whole slope in its own log-ratio.

    Args:
        rated: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        matched: ``(B, K)`` log-ratios of the other side that an example is coupled with, without gradient, nats.
        share: ``(B, K)``, ``w`` times the number of examples in the step; 0 for no couple.
        beta: pull towards the base, > 0, in 1/nat.
        label_smoothing: weight of the opposite order, in [0, 0.5).

    Returns:
        The loss of each example, ``(B,)``; their mean over a step is the step's.
    """
    apart = beta * rated.sign[:, None] * (rated.ratio[:, None] - matched)
    each = (1 - label_smoothing) * F.softplus(-apart) + label_smoothing * F.softplus(apart)
    both = (share * each).sum(1)
    return both - both.detach() / 2


def couples(values: torch.Tensor, others: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each value with those of the other side in the same quantiles, and the mass that they share.

    The k-th smallest of n values holds the quantiles from k / n to (k + 1) / n.

    Args:
        values: ``(n,)``.
        others: ``(m,)``.
        width: places a value, of which it uses ``ceil(m / n) + 1`` at most.

    Returns:
        The others' values and the shared mass, each ``(n, width)``, in the order of ``values``; all mass sums to 1.
    """
    n, m = len(values), len(others)
    if not n or not m:
        return values.new_zeros(n, width), values.new_zeros(n, width)
    rank = values.argsort(stable=True).argsort()[:, None]
    place = rank * m // n + torch.arange(width, device=values.device)
    # In whole numbers, of which one quantile has n m: nothing is rounded.
    overlap = torch.minimum((rank + 1) * m, (place + 1) * n) - torch.maximum(rank * m, place * n)
    return others.sort().values[place.clamp(max=m - 1)], overlap.clamp(min=0).to(values) / (n * m)


@method(paper="arXiv:2406.05882", dial="beta", neutral={"max_steps": 0})
class AOTUnpaired(UnpairedMethod):
    """Wants the desirable replies to be rewarded more than the others as a whole, quantile by quantile.

    What an example is measured by are the examples of the other side in its step, so every step is scored twice. A step
    of one side alone teaches nothing: choose steps of eight examples or more.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    sees_step: ClassVar[bool] = True

    def of_step(self, step: RatedLogps) -> torch.Tensor:
        good, bad = step.ratio[step.desirable], step.ratio[~step.desirable]
        fewer, more = sorted((len(good), len(bad)))
        width = -(-more // max(1, fewer)) + 1
        said = step.ratio.new_zeros(len(step.ratio), 2, width)
        for held, values, others in ((step.desirable, good, bad), (~step.desirable, bad, good)):
            matched, mass = couples(values, others, width)
            said[held] = torch.stack([matched, mass * len(step.ratio)], 1)
        return said

    def loss(self, rated: RatedLogps) -> torch.Tensor:
        matched, share = rated.surveyed.detach().unbind(1)
        return aot_unpaired_loss(rated, matched, share, beta=self.beta, label_smoothing=self.label_smoothing)
