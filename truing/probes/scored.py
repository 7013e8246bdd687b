"""Log-probabilities of replies under an arm, as probes read them: one sum and one count a reply, kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from truing.core.errors import RunError, bad
from truing.core.policy import Chat, Reply, Scorable
from truing.core.run import Run
from truing.engine.cache import digest, remember

if TYPE_CHECKING:
    from truing.probes.pool import Array


def reply_sums(
    policy: Scorable, chats: Sequence[Chat], replies: Sequence[Reply], run: Run, *, probe: str, unit: str
) -> tuple[Array, Array]:
    """Log-probability of each reply, ``(N,)`` nats, and its tokens, ``(N,)``; computed once a cache.

    Args:
        policy: who is asked.
        chats, replies: ``N`` of each; the empty chat ``()`` is bare text without a chat template.
        run: its cache and log.
        probe: who asks: the folder of the cache, and the place of faults.
        unit: what a reply is called there: a passage, a reply.

    Raises:
        InputError: a reply without tokens.
        RunError: a log-probability that is NaN.
    """
    said = [reply if isinstance(reply, str) else reply.token_ids for reply in replies]
    key = digest(policy.fingerprint, [[[t.role, t.content] for t in chat] for chat in chats], said)
    path = run.cache / probe / f"{key[:40]}.json" if run.cache is not None else None

    def read(file: Path) -> tuple[Array, Array]:
        known = json.loads(file.read_text(encoding="utf-8"))
        nats, tokens = (np.array(known[name], dtype=float) for name in ("nats", "tokens"))
        if not nats.shape == tokens.shape == (len(replies),):
            raise ValueError(f"another number of {unit}s")
        return nats, tokens

    def score() -> tuple[Array, Array]:
        scored = policy.token_logprobs(chats, replies)
        tokens = np.array([float(len(each)) for each in scored])
        nats = np.array([float(each.double().sum()) for each in scored])
        if (tokens == 0).any():
            fact = f"{unit} {int((tokens == 0).argmax())} has no tokens"
            raise bad(probe, fact, f"Leave empty {unit}s out.")
        if np.isnan(nats).any():
            fact = f"the log-probability of {unit} {int(np.isnan(nats).argmax())} is not a number (NaN)"
            raise RunError(f"{probe}: {fact}")
        return nats, tokens

    return remember(path, score, read=read, write=_write, log=run.log)


def _write(file: Path, scored: tuple[Array, Array]) -> None:
    nats, tokens = scored
    file.write_text(json.dumps({"nats": nats.tolist(), "tokens": tokens.tolist()}), encoding="utf-8")
