"""What a router does with calibration text, and which unit of one expert is which of another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.run import Log
from truing.core.trees import Tree
from truing.models.experts import Mixture, mixtures
from truing.units.experts import align_experts
from truing.units.transport import assignment

SAMPLE = 512  # tokens that experts are compared on

NAMES = ("gate", "up", "down")

Align = Literal["weights", "activations", "none"]
Similarity = Literal["router_logits", "router_weights", "weights", "outputs"]


@dataclass(frozen=True)
class Routing:
    """What one block's router did. Every token counts once; there is no padding to count.

    Attributes:
        chosen: ``(T, k)`` int64, the router's rows that each token was sent to.
        gram: ``(E, E)`` float64, inner products of the rows' logits over tokens.
        inputs: ``(S, H)``, what experts read, of the first tokens.
    """

    chosen: torch.Tensor
    gram: torch.Tensor
    inputs: torch.Tensor

    @property
    def frequency(self) -> torch.Tensor:
        """``(E,)`` float64, the share of all routes that each row got; sums to 1."""
        counts = torch.bincount(self.chosen.flatten(), minlength=len(self.gram)).double()
        return counts / counts.sum()

    def distinct(self, members: torch.Tensor) -> float:
        """Mean number of experts that a token passes where ``members`` ``(E,)`` says which stands for each row."""
        passed = members.cpu()[self.chosen].sort(1).values
        return 1 + float((passed[:, 1:] != passed[:, :-1]).double().sum(1).mean())


def routing(model: Any, trees: Sequence[Tree], log: Log) -> dict[int, Routing]:
    """The routing of each block over some texts, one after another: prompts and first replies."""
    found = mixtures(model)
    chosen: list[list[torch.Tensor]] = [[] for _ in found]
    grams, inputs = [torch.zeros(()) for _ in found], [torch.zeros(0) for _ in found]

    def watch(place: int) -> Any:
        def told(module: Any, given: tuple[Any, ...], out: tuple[torch.Tensor, ...]) -> None:
            logits, rows = out[0].double().cpu(), out[-1].cpu()
            chosen[place].append(rows)
            grams[place] = grams[place] + logits.T @ logits
            states = given[0].reshape(-1, given[0].shape[-1])
            if len(inputs[place]) < SAMPLE:
                kept = states[: SAMPLE - len(inputs[place])].clone()
                inputs[place] = torch.cat([inputs[place], kept]) if len(inputs[place]) else kept

        return told

    hooks = [mixture.router.register_forward_hook(watch(place)) for place, mixture in enumerate(found)]
    try:
        with torch.no_grad():
            for done, tree in enumerate(trees):
                ids = torch.tensor([[*tree.prompt, *tree.replies[0]]], device=model.device)
                model.base_model(input_ids=ids, use_cache=False)
                log.progress("watching the routers", done + 1, len(trees))
    finally:
        for hook in hooks:
            hook.remove()
    parts = zip(found, chosen, grams, inputs, strict=True)
    return {mixture.block: Routing(torch.cat(rows), gram, states) for mixture, rows, gram, states in parts}


def aligned(mixture: Mixture, how: Align, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts of a mixture with their units in the order of the first expert's.

    Args:
        how: by inner products of a unit's weights in all three matrices, up to the sign that ``up`` and ``down`` share;
            or by the correlation of its activations on ``inputs`` ``(S, H)``, where one that never moves has none.

    Returns:
        ``(m, 2 I, H)`` and ``(m, H, I)`` in float32 or better: the same functions.
    """
    ups, downs = (wide(part) for part in mixture.weights())
    if how == "none":
        return ups, downs
    if how == "weights":
        experts = [dict(zip(NAMES, (*up.chunk(2), down), strict=True)) for up, down in zip(ups, downs, strict=True)]
        made, _ = align_experts(experts, anchor=0)
        return torch.stack([torch.cat([e["gate"], e["up"]]) for e in made]), torch.stack([e["down"] for e in made])
    moves = [_moves(up, inputs, mixture.experts.act_fn) for up in ups]
    orders = [assignment(own @ moves[0].T).to(ups.device) for own in moves]
    gates = [part[order] for up, order in zip(ups, orders, strict=True) for part in up.chunk(2)]
    downs = torch.stack([down[:, order] for down, order in zip(downs, orders, strict=True)])
    return torch.cat(gates).view_as(ups), downs


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 or better."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _moves(up: torch.Tensor, inputs: torch.Tensor, act: Any) -> torch.Tensor:
    """``(I, S)``: each unit's activations, centred and of length 1; 0 where they never change."""
    moves = _activations(up, inputs, act).T
    centred = moves - moves.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-12, centred / length.clamp_min(1e-12), 0)


def _activations(up: torch.Tensor, inputs: torch.Tensor, act: Any) -> torch.Tensor:
    gate, rest = (inputs.to(up) @ up.T).chunk(2, dim=1)
    return act(gate) * rest  # type: ignore[no-any-return] # an activation of transformers


def similarity(
    mixture: Mixture, parts: tuple[torch.Tensor, torch.Tensor], how: Similarity, seen: Routing
) -> torch.Tensor:
    """How alike experts are: the cosine between what ``how`` names, brought from [-1, 1] to [0, 1].

    Args:
        parts: the aligned experts, ``(E, 2 I, H)`` and ``(E, H, I)``.
        how: ``router_logits`` over all tokens; ``router_weights``; all ``weights`` of the aligned experts; or their
            ``outputs`` on the sampled inputs.

    Returns:
        ``(E, E)`` float64.
    """
    if how == "router_logits":
        gram = seen.gram
    else:
        ups, downs = parts
        if how == "router_weights":
            rows = mixture.router.weight.detach()
        elif how == "weights":
            rows = torch.cat([ups.flatten(1), downs.flatten(1)], 1)
        else:
            act = mixture.experts.act_fn
            rows = torch.stack([
                (_activations(up, seen.inputs, act) @ down.T).flatten() for up, down in zip(ups, downs, strict=True)
            ])  # fmt: skip
        rows = rows.double().cpu()
        gram = rows @ rows.T
    length = gram.diagonal().clamp_min(1e-30).sqrt()
    return (gram / length[:, None] / length + 1) / 2
