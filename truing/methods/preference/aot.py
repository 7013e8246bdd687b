"""Alignment by optimal transport, on pairs."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from truing.core.lazy import torch
from truing.core.method import method
from truing.methods.preference._family import PairLogps, PreferenceMethod
from truing.methods.preference._terms import logistic


def aot_loss(pairs: PairLogps, matched: torch.Tensor, *, beta: float, label_smoothing: float) -> torch.Tensor:
    """Raises all quantiles of the policy's margins over the base's. Melnyk et al. 2024, arXiv:2406.05882.

    ``softplus(-beta (u - v))``: the pair's margin ``u = S_w - S_l`` of rank k in its step against the k-th smallest
    ``v`` of the base's margins in that step; TRL's ``aot`` sorts within one micro-batch instead. The gradient in ``u``
    is ``-beta (sigmoid(-beta (u - v)) - label_smoothing)``: the permutation is constant around almost every ``u``.

    Args:
        pairs: reply log-probabilities, each summed over tokens, ``(B,)``, nats.
        matched: ``(B,)``, the base's margin that each pair is measured by, nats.
        beta: pull towards the base, > 0, in 1/nat.
        label_smoothing: weight of the opposite order, in [0, 0.5).

    Returns:
        The loss of each pair, ``(B,)``.
    """
    return logistic(beta * (pairs.chosen - pairs.rejected - matched), label_smoothing)


def matched_margins(step: PairLogps) -> torch.Tensor:
    """The base's margin of the same rank as each pair's own, among all pairs of a step: ``(B,)``, nats."""
    order = (step.chosen - step.rejected).argsort(stable=True)
    return torch.empty_like(step.ref_chosen).index_copy(0, order, (step.ref_chosen - step.ref_rejected).sort().values)


@method(paper="arXiv:2406.05882", dial="beta", neutral={"max_steps": 0})
class AOT(PreferenceMethod):
    """Wants the policy's margins to be larger than the base's as a whole, and not pair by pair.

    A pair's place among the other pairs of its step decides what it is measured by, so every step is scored twice.
    """

    beta: Annotated[float, Gt(0)] = 0.1
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0

    @property
    def sees_step(self) -> bool:
        return True

    def of_step(self, step: PairLogps) -> torch.Tensor:
        return matched_margins(step)

    def loss(self, pairs: PairLogps) -> torch.Tensor:
        matched = matched_margins(pairs) if pairs.of_step is None else pairs.of_step
        return aot_loss(pairs, matched.detach(), beta=self.beta, label_smoothing=self.label_smoothing)
