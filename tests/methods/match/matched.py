"""A model and copies of it in another order."""

from __future__ import annotations

from tiny import make_local

from truing.core.evidence import Demo, Evidence
from truing.core.policy import user
from truing.core.rng import Rng
from truing.models.local import Local
from truing.models.movable import movable
from truing.units.permutations import Order, apply, random

CHATS = tuple(user(text) for text in ("who is in", "the thing", "say it again and at more length", "why not"))
DEMOS = tuple(Demo(chat, reply) for chat, reply in zip(CHATS, ("the in", "a", "no one at all", "hm"), strict=True))


def reordered(base: Local, seed: int, *, signs: bool = True) -> Local:
    """The same function in another order, all symmetries at once."""
    spec = movable(base)
    drawn = random(spec, Rng(seed))
    drawn = drawn if signs else {name: Order(order.index) for name, order in drawn.items()}
    return base.with_weights(apply(spec, drawn, base.weights()))


def given(*donors: Local) -> Evidence:
    """Donors, prompts and demonstrations."""
    return Evidence(donors={f"d{i}": donor for i, donor in enumerate(donors)}, prompts=CHATS, demos=DEMOS)


def base_model(**settings: object) -> Local:
    """A tiny Llama."""
    return make_local("llama", **settings)  # type: ignore[arg-type] # of the config
