"""What the tests of blends share: models, good replies, and a blend by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny import make_local

from truing.core.evidence import Demo, Evidence, Pair
from truing.core.policy import user
from truing.models.local import Local

CHATS = tuple(user(text) for text in ("who is in", "the thing", "say it", "in the end", "hm", "no one"))
REPLIES = ("the in thing", "a", "no one at all", "hm hm hm", "in it", "say the thing")
DEMOS = tuple(Demo(chat, reply) for chat, reply in zip(CHATS, REPLIES, strict=True))
PAIRS = tuple(Pair(chat, REPLIES[k], REPLIES[k - 1]) for k, chat in enumerate(CHATS))


def models(architecture: str = "llama", **settings: Any) -> tuple[Local, Local]:
    """A base and a donor of four blocks that differ in every tensor, norms included."""
    settings = {"num_hidden_layers": 4, **settings}
    donor, source = make_local(architecture, seed=1, **settings), torch.Generator().manual_seed(2)
    moved = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=source).to(tensor)
        for name, tensor in donor.weights().items()
    }
    return make_local(architecture, **settings), donor.with_weights(moved)


def given(donor: Local, **fields: Any) -> Evidence:
    return Evidence(**{"demos": DEMOS, "donors": {"aligned": donor}, **fields})


def by_hand(base: Local, donor: Local, blocks: Sequence[float], others: float) -> Local:
    """The blend with these pretrained fractions of the blocks of a Llama, and one for everything else."""
    theirs, made = donor.weights(), dict[str, torch.Tensor]()
    for name, tensor in base.weights().items():
        words = name.split(".")
        kept = blocks[int(words[2])] if words[1] == "layers" else others
        made[name] = kept * tensor.double() + (1 - kept) * theirs[name].double()
    return base.with_weights(made)


def nats(policy: Local) -> float:
    """Negative log-likelihood of the demonstrations, nats a token."""
    tokens = policy.token_logprobs([demo.prompt for demo in DEMOS], [demo.reply for demo in DEMOS])
    return -float(torch.cat(tokens).double().mean())
