"""The log-ratio of a structure, from log-probabilities: weighted model counting that stays finite."""

from __future__ import annotations

from collections.abc import Mapping

from truing.core.lazy import torch
from truing.engine.stable import log1mexp
from truing.logic.structure import Structure
from truing.logic.worlds import Proposition


def log_weight(proposition: Proposition, logps: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The log of a proposition's weighted model count, each atom an independent coin.

    A log-sum-exp over its worlds, and all terms are positive, so nothing cancels. Where it is a conjunction there is
    one world, and the result is the plain sum of its literals' log-probabilities.

    Args:
        proposition: true in some world.
        logps: of each atom on which it depends the log-probability of being true, ``(B,)``, <= 0, nats; at least one.

    Returns:
        ``(B,)``, nats.
    """
    like = next(iter(logps.values()))
    names, worlds = proposition.support, list(proposition.worlds())
    if not names:
        return torch.zeros_like(like)
    false = {name for world in worlds for name, value in zip(names, world, strict=True) if not value}
    lacking = {name: log1mexp(logps[name]) for name in names if name in false}
    terms = [
        sum((logps[name] if value else lacking[name] for name, value in zip(names[1:], world[1:], strict=True)),
            start=logps[names[0]] if world[0] else lacking[names[0]])
        for world in worlds
    ]  # fmt: skip
    return terms[0] if len(terms) == 1 else torch.logsumexp(torch.stack(terms), 0)


def log_ratio(structure: Structure, logps: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """``rho = log weight(top) - log weight(bottom)``: what a compiled loss wants large.

    Args:
        structure: what is wanted true, over what is wanted false.
        logps: of each atom that it speaks of, ``(B,)``, <= 0, nats.

    Returns:
        ``(B,)``, nats.
    """
    return log_weight(structure.top, logps) - log_weight(structure.bottom, logps)
