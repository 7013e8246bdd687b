"""Gradient entanglement: how much raising one reply's log-probability raises another's.

A small step along the gradient of a loss changes the log-probability of a reply by inner products of gradients, so
these products say beforehand whether the preferred reply of a pair will rise. Yuan et al. 2024, arXiv:2410.13828.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truing.core.lazy import torch
from truing.core.policy import Workbench
from truing.core.trees import Tree
from truing.engine.vocabulary import CHUNK, adjust


@dataclass(frozen=True)
class Products:
    """Inner products of the gradients of two replies' log-probabilities, for ``n`` pairs.

    Attributes:
        inner: ``(n,)``, of the chosen reply's gradient with the rejected one's.
        chosen, rejected: ``(n,)``, the square of each one's norm.
    """

    inner: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor

    @property
    def cosine(self) -> torch.Tensor:
        """``(n,)`` in [-1, 1]; 0 where a gradient is."""
        norms = (self.chosen * self.rejected).sqrt()
        return torch.where(norms > 0, self.inner / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)

    def changes(self, pull: torch.Tensor, push: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """To first order, what a gradient step on each pair's own loss does to its two log-probabilities.

        Args:
            pull: ``(n,)``, how fast the loss falls as the chosen log-probability rises: ``d_w`` of the paper.
            push: ``(n,)``, how fast it falls as the rejected one falls: ``d_l``. Margin losses have the two equal.

        Returns:
            The change of the chosen and of the rejected log-probability, each ``(n,)``, nats per unit of step size.
        """
        return pull * self.chosen - push * self.inner, pull * self.inner - push * self.rejected

    def metrics(self, pull: torch.Tensor, push: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Cosine, and of what share of pairs a step moves a reply the wrong way; a pair that pulls no more has none."""
        chosen, rejected = self.changes(pull, push)
        return {
            "entanglement/cosine": self.cosine,
            "entanglement/chosen_falls": (chosen < 0).to(chosen),
            "entanglement/rejected_rises": (rejected > 0).to(rejected),
        }


def last_layer(model: Any, states: torch.Tensor, targets: torch.Tensor, chosen: int) -> torch.Tensor:
    """Products of one pair's gradients with respect to the output projection, in closed form.

    The logits are ``W h + b``, so the gradient of ``sum_t log p(y_t)`` in ``W`` is ``sum_t a_t h_t'``, with ``a_t`` the
    slope of ``log p(y_t)`` in the products ``W h_t``: one-hot minus probabilities, unless these are capped or scaled.
    Two such sums have the inner product ``sum_ij (a_i . a_j)(h_i . h_j)``: no matrix of the size of ``W`` is made. A
    bias adds 1 to each ``h_i . h_j``. Where input and output share ``W``, its use as output alone counts.

    Args:
        states: ``(T, D)`` hidden states, those of the chosen reply first.
        targets: ``(T,)`` the tokens predicted from them.
        chosen: how many belong to the chosen reply.

    Returns:
        ``(2, 2)``: the products of chosen and rejected with each other.
    """
    states = states.detach()
    sides = torch.zeros(len(states), 2, dtype=_sum_type(states), device=states.device)
    sides[:chosen, 0] = sides[chosen:, 1] = 1.0
    bias = 0.0 if getattr(model.get_output_embeddings(), "bias", None) is None else 1.0
    cuts = list(range(0, len(states), CHUNK))
    blocks = [slice(cut, cut + CHUNK) for cut in cuts]
    total = sides.new_zeros(2, 2)
    for i, rows in enumerate(blocks):
        left = _slopes(model, states[rows], targets[rows])
        for columns in blocks[: i + 1]:
            # Computed again rather than kept: T x V numbers of a long pair would not fit.
            right = left if rows == columns else _slopes(model, states[columns], targets[columns])
            gram = (left @ right.T) * (states[rows] @ states[columns].T + bias)
            part = sides[rows].T @ gram.to(sides) @ sides[columns]
            total += part if rows == columns else part + part.T
    return total


def _slopes(model: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``(T, V)``: the gradient of each target's log-probability in the products with the output embeddings."""
    with torch.no_grad():
        raw = model.get_output_embeddings()(states)
    raw = raw.to(_sum_type(raw)) if raw.dtype != torch.float64 else raw
    with torch.enable_grad():
        raw.requires_grad_()
        logits = adjust(model, raw)
        picked = logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)
        (slopes,) = torch.autograd.grad(picked.sum(), raw)
    return slopes


def _sum_type(values: torch.Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def last_layers(model: Any, states: torch.Tensor, trees: Sequence[Tree], pairs: Sequence[int]) -> Products:
    """:func:`last_layer` of some of the trees whose states these are, each of two replies.

    Args:
        states: ``(T, D)``, tree by tree, reply by reply.
        trees: all of them.
        pairs: which of them, by their place.
    """
    starts = [0]
    for tree in trees:
        starts.append(starts[-1] + sum(map(len, tree.replies)))
    found = []
    for pair in pairs:
        chosen, rejected = trees[pair].replies
        targets = torch.tensor([*chosen, *rejected], dtype=torch.int64, device=states.device)
        found.append(last_layer(model, states[starts[pair] : starts[pair + 1]], targets, len(chosen)))
    return _gathered(found, states)


def exact(bench: Workbench, trees: Sequence[Tree]) -> Products:
    """Products over every parameter that is trained, by two backward passes a pair."""
    parameters = [p for p in bench.module.parameters() if p.requires_grad]
    found = []
    for tree in trees:
        with torch.enable_grad():
            chosen, rejected = bench.score([tree]).sums
            up = torch.autograd.grad(chosen, parameters, retain_graph=True, allow_unused=True)
            down = torch.autograd.grad(rejected, parameters, allow_unused=True)
        found.append(torch.stack([_dot(left, right) for left in (up, down) for right in (up, down)]).view(2, 2))
    return _gathered(found, parameters[0])


def _dot(left: Sequence[torch.Tensor | None], right: Sequence[torch.Tensor | None]) -> torch.Tensor:
    parts = [(a * b).sum() for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return torch.stack(parts).sum()


def _gathered(found: Sequence[torch.Tensor], like: torch.Tensor) -> Products:
    grams = torch.stack(list(found)) if found else torch.zeros(0, 2, 2, dtype=_sum_type(like), device=like.device)
    return Products(grams[:, 0, 1], grams[:, 0, 0], grams[:, 1, 1])
