"""What the tests of retaining share: a small model, its demonstrations, prompts on which it should stay."""

from __future__ import annotations

from typing import Any

import torch
from tiny import make_local

from truing.core.evidence import Demo, Evidence, Pair
from truing.core.method import build, find
from truing.core.policy import Policy, user
from truing.core.run import Run
from truing.models.local import Local
from truing.models.tabular import Tabular

CHATS = tuple(user(text) for text in ("who is in", "the thing", "say it", "in the inn"))
REPLIES = ("the in", "a", "no one at all", "hm")
DEMOS = tuple(Demo(chat, reply) for chat, reply in zip(CHATS, REPLIES, strict=True))
PROMPTS = tuple(user(text) for text in ("one", "another one", "harm"))
PAIRS = tuple(Pair(chat, "no", "the inn") for chat in PROMPTS)
GIVEN = Evidence(demos=DEMOS, prompts=PROMPTS, pairs=PAIRS)
QUICK: dict[str, object] = {
    "max_steps": 4, "learning_rate": 5e-3, "per_device_train_batch_size": 3, "warmup_ratio": 0.0, "logging_steps": 1,
    "keep_max_new_tokens": 6,
}  # fmt: skip


def trained(name: str, base: Any, run: Run | None = None, given: Evidence = GIVEN, **settings: object) -> Any:
    """What a member makes of some demonstrations."""
    known = find(name).card.fields
    return build(name, **{k: v for k, v in {**QUICK, **settings}.items() if k in known})(base, given, run or Run())


def table(seed: int = 0) -> Tabular:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Tabular((*CHATS, *PROMPTS), REPLIES, logits)


def moved(left: Any, right: Any) -> torch.Tensor:
    """Every difference of two policies' weights, in one row."""
    ours, theirs = left.weights(), right.weights()
    return torch.cat([(ours[name] - theirs[name]).detach().double().flatten() for name in ours])


def pair_of_models(**settings: Any) -> tuple[Local, Local, Evidence]:
    """A fine-tuned model, the one it came from, and evidence to recover with."""
    aligned = make_local(seed=3, **settings)
    tuned = trained("imitation/sft", aligned, max_steps=6, learning_rate=1e-2)
    donors: dict[str, Policy] = {"aligned": aligned}
    return tuned, aligned, Evidence(prompts=PROMPTS, demos=DEMOS, donors=donors)
