"""What is logged of pairs beside the loss: does the chosen reply fall, does a pair still pull, does length decide?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.trees import Tree, TreeScores
from truing.engine.entangle import exact, last_layers

if TYPE_CHECKING:
    from truing.methods.preference._family import PairLogps

    Loss = Callable[[PairLogps], torch.Tensor]

SPENT = 0.05
"""A pair whose pull is below this share of what it was at the base is saturated: under DPO, ``sigmoid(reward margin)``
is then beyond 0.975."""
EVERY = 8
"""Entanglement is measured on every eighth pair of the data, always the same: the choice depends neither on how a step
was cut up nor on where a run was resumed, and costs about one hundredth of a step (``exact``: about a fifth)."""
LONGEST = 2048
"""Tokens of the two replies beyond which a pair is not measured: the cost grows with their square."""


def pulls(loss: Loss, pairs: PairLogps) -> tuple[torch.Tensor, torch.Tensor]:
    """How fast the loss falls as the chosen log-probability rises, and as the rejected one falls, each ``(B,)``.

    A reply's log-probability rises by all its tokens alike: a loss that weighs tokens pulls by their mean.
    """
    with torch.enable_grad():
        if pairs.tokens is None:
            ends = [value.detach().requires_grad_() for value in (pairs.chosen, pairs.rejected)]
            total = loss(replace(pairs, chosen=ends[0], rejected=ends[1])).sum()
            up, down = torch.autograd.grad(total, ends, allow_unused=True, materialize_grads=True)
            return -up, down
        single = pairs.tokens.policy.detach().requires_grad_()
        tokens = replace(pairs.tokens, policy=single)
        sums = tokens.sums(single)
        total = loss(replace(pairs, chosen=sums[:, 0], rejected=sums[:, 1], tokens=tokens)).sum()
        (slopes,) = torch.autograd.grad(total, single, allow_unused=True, materialize_grads=True)
    means = tokens.sums(slopes) / tokens.counts.clamp_min(1)
    return -means[:, 0], means[:, 1]


def pair_metrics(loss: Loss, pairs: PairLogps, margin: torch.Tensor, *, referenced: bool) -> Mapping[str, torch.Tensor]:
    """The pull of length, and against a base displacement and saturation, each ``(B,)``.

    Args:
        margin: ``(B,)``, of the implicit rewards.
        referenced: whether there is a base to compare with.
    """
    metrics: dict[str, torch.Tensor] = {}
    if referenced:
        now = torch.maximum(*map(torch.abs, pulls(loss, pairs)))
        start = torch.maximum(*map(torch.abs, pulls(loss, _at_base(pairs))))
        metrics = {
            "displacement/chosen": pairs.chosen_ratio.detach(),
            "displacement/rejected": pairs.rejected_ratio.detach(),
            "saturated": (now < SPENT * start).to(margin),
        }
    if pairs.chosen_tokens is not None and pairs.rejected_tokens is not None:
        more = pairs.chosen_tokens - pairs.rejected_tokens
        margin = torch.where(ties(pairs), 0.0, margin)
        metrics |= {
            "lengths/chosen": pairs.chosen_tokens,
            "lengths/rejected": pairs.rejected_tokens,
            # Of the implicit reward and of the data: how often the longer reply of a pair is the better one.
            "lengths/longer_rewarded": (1 + torch.sign(margin) * torch.sign(more)) / 2,
            "lengths/longer_chosen": (1 + torch.sign(more).to(margin)) / 2,
        }
    return metrics


def _at_base(pairs: PairLogps) -> PairLogps:
    """The same pairs as they were before the first update."""
    tokens = None if pairs.tokens is None else replace(pairs.tokens, policy=pairs.tokens.reference)
    return replace(pairs, chosen=pairs.ref_chosen, rejected=pairs.ref_rejected, tokens=tokens)


def ties(pairs: PairLogps) -> torch.Tensor:
    """Pairs whose margin is no more than the rounding of its terms, ``(B,)``: before the first update, all."""
    sizes = pairs.chosen.detach().abs() + pairs.rejected.detach().abs()
    return pairs.margin.detach().abs() <= 1e-6 * sizes


def entangled(
    how: Literal["off", "last_layer", "exact"],
    loss: Loss,
    bench: Workbench,
    scores: TreeScores,
    trees: Sequence[Tree],
    pairs: PairLogps,
    numbers: Sequence[int],
) -> Mapping[str, torch.Tensor]:
    """Entanglement of every eighth pair; nothing where it is off, or the layout keeps no hidden states.

    Args:
        how: as in the method's field.
        trees, pairs, numbers: those of the micro-batch that ``scores`` are of.
    """
    measured = [
        place
        for place, (number, tree) in enumerate(zip(numbers, trees, strict=True))
        if number % EVERY == 0 and all(tree.replies) and sum(map(len, tree.replies)) <= LONGEST
    ]
    if how == "exact":
        products = exact(bench, [trees[place] for place in measured])
    elif how == "last_layer" and scores.states is not None:
        products = last_layers(bench.module, scores.states, trees, measured)
    else:
        return {}
    pull, push = (force[measured].to(products.inner) for force in pulls(loss, pairs))
    return products.metrics(pull, push)
