"""Our side of sampling: the policy's own sampler, log-probabilities included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.side import Clock, job, tell

from truing.core.policy import Message, Sampling
from truing.core.rng import Rng


def main() -> None:
    """Load, warm up, draw under the clock, tell."""
    work = job()
    from truing.models import load_model

    policy: Any = load_model(work["model"], device=work["device"], dtype=work["dtype"])
    if not work["stops"]:
        vars(policy)["stop_ids"] = frozenset()  # before the sampler is made: no token ends a reply
    given = json.loads(Path(work["prompts"]).read_text(encoding="utf-8"))
    chats = [tuple(Message(turn["role"], turn["content"]) for turn in chat) for chat in given]
    sampling, seed = Sampling(max_new_tokens=work["tokens"]), Rng(work["seed"])
    policy.sample(chats[:2], n=2, sampling=Sampling(max_new_tokens=2), rng=seed)
    workloads = {}
    for name, asked, n in (("draws of one prompt", chats[:1], work["draws"]), ("different prompts", chats, 1)):
        with Clock() as clock:
            draws = policy.sample(asked, n=n, sampling=sampling, rng=seed.child(name))
        tokens = sum(len(draw.token_ids) for group in draws for draw in group)
        workloads[name] = {"seconds": clock.seconds, "tokens": tokens}
    sizes = [len(ids) for ids in policy.template.prompts(chats)]
    seconds = sum(part["seconds"] for part in workloads.values())
    tell(seconds=seconds, workloads=workloads, prompt_tokens=f"{sizes[0]} and {sum(sizes)}")


if __name__ == "__main__":
    main()
