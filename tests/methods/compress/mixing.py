"""What the tests of compression share: demonstrations, mixtures with known experts, logits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tiny import make_local

from truing.core.evidence import Demo, Evidence
from truing.core.policy import user
from truing.methods.compress._routing import Routing
from truing.models.experts import mixtures
from truing.models.local import Local

DEMOS = tuple(
    Demo(user(prompt), reply)
    for prompt, reply in (
        ("who is in", "the thing"),
        ("say it", "no one at all"),
        ("a", "b"),
        ("the inn", "in the inn"),
    )
)
EVIDENCE = Evidence(demos=DEMOS)
TOKENS = torch.randint(4, 90, (2, 40), generator=torch.Generator().manual_seed(3))


def logits_of(policy: Local) -> torch.Tensor:
    """``(B, T, V)``."""
    with torch.no_grad():
        found: torch.Tensor = policy.model(TOKENS, use_cache=False).logits
    return found


def parameters(policy: Local) -> int:
    return sum(p.numel() for p in policy.model.parameters())


def cloned(architecture: str = "mixtral", *, groups: int = 1, seed: int = 0) -> Local:
    """A mixture in which expert ``j`` is expert ``j % groups`` with its units in another order."""
    policy = make_local(architecture, seed=seed)
    source = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for mixture in mixtures(policy.model):
            for row in range(groups, len(mixture.members)):
                up, down = (part[row % groups].clone() for part in mixture.weights())
                order = torch.randperm(up.shape[0] // 2, generator=source)
                gate, rest = up.chunk(2)
                mixture.experts.gate_up_proj[row] = torch.cat([gate[order], rest[order]])
                mixture.experts.down_proj[row] = down[:, order]
    return policy


def alike_in_router(policy: Local, groups: int) -> Local:
    """The router scores members of one group nearly alike, so that their logits tell the groups."""
    with torch.no_grad():
        for mixture in mixtures(policy.model):
            rows = mixture.router.weight
            for row in range(groups, len(rows)):
                rows[row] = rows[row % groups] + 0.05 * rows[row]
    return policy


def skewed(policy: Local, factor: float = 3.0) -> Local:
    """A router that takes some experts much more often than others."""
    made = Local(copy.deepcopy(policy.model), policy.tokenizer)
    with torch.no_grad():
        for mixture in mixtures(made.model):
            mixture.router.weight.mul_(torch.linspace(1, factor, len(mixture.members))[:, None])
    return made


def told(chosen: Any, experts: int) -> Routing:
    """Routing of so many experts by hand."""
    return Routing(torch.tensor(chosen), torch.eye(experts, dtype=torch.float64), torch.zeros(1, 1))
