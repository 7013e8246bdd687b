"""Experts of one layer in a common order of their neurons: what must come before they are compared or merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.rng import Rng
from truing.units.matching import match_weights
from truing.units.permutations import Group, Order, Part, PermutationSpec, apply

Expert = Mapping[str, "torch.Tensor"]
"""``up`` ``(I, H)`` and ``down`` ``(H, I)``; ``gate`` ``(I, H)`` and ``..._bias`` where there are any."""

MAKES = ("gate", "up")


def expert_spec(expert: Expert) -> PermutationSpec:
    """What may move in one expert: its neurons; a gated one's may also change sign in ``up`` and ``down``.

    Raises:
        InputError: there is no ``up`` or ``down``, or one of a name that is not known.
    """
    known = {f"{name}{tail}" for name in (*MAKES, "down") for tail in ("", "_bias")}
    if not {"up", "down"} <= expert.keys() or not expert.keys() <= known:
        raise bad("expert", f"holds {sorted(expert)}", f"Give 'up' and 'down', and of {sorted(known)} what there is.")
    neurons, stream = expert["up"].shape
    made: dict[str, tuple[tuple[Part, ...], ...]] = {}
    for name in expert:
        role = name.removesuffix("_bias")
        own = (Part(neurons, "neurons", signed=role != "gate", reads=role == "down"),)
        rest = (Part(stream, reads=role != "down"),)
        if name.endswith("_bias"):
            made[name] = (rest,) if role == "down" else (own,)
        else:
            made[name] = (rest, own) if role == "down" else (own, rest)
    return PermutationSpec({"neurons": Group("neurons", neurons, signed="gate" in expert)}, made)


def align_experts(
    experts: Sequence[Expert], *, anchor: int, signs: bool = True
) -> tuple[list[dict[str, torch.Tensor]], list[Order]]:
    """Every expert with its neurons in the anchor's order; each computes what it did.

    One assignment on all of an expert's matrices together (Li et al. 2024, arXiv:2310.01334, for gated experts).

    Args:
        experts: of one layer, all of one shape.
        anchor: the number of the one that stays as it is.
        signs: whether a gated expert's neurons may change sign.

    Returns:
        The experts, and the order that each was brought into.

    Raises:
        InputError: no experts, or they differ in shape.
    """
    if not 0 <= anchor < len(experts):
        raise bad("anchor", f"{anchor} of {len(experts)} experts", "Name one of them by its number from 0.")
    spec = expert_spec(experts[anchor])
    if not signs:
        spec = PermutationSpec({"neurons": Group("neurons", spec.groups["neurons"].units)}, spec.tensors)
    made, found = [], []
    for number, expert in enumerate(experts):
        matched = match_weights(spec, experts[anchor], expert, max_sweeps=0, rng=Rng(0).child(number))
        made.append(apply(spec, matched.permutation, expert))
        found.append(matched.permutation["neurons"])
    return made, found
