"""What can be computed again, kept on disk under a hash of everything that decides it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from truing.core.errors import RunError
from truing.core.files import file_errors, sweep, write_atomically
from truing.core.lazy import np, torch
from truing.core.policy import Chat, Draw, Editable, Policy, Sampling
from truing.core.rng import Rng
from truing.core.run import Log, Quiet, Run
from truing.core.trees import Tree
from truing.engine.precision import Precision, autocast
from truing.engine.processes import ALONE, Processes, here, shares

T = TypeVar("T")
RACE = "race 1"  # how random numbers become tokens: what was drawn in another way is not taken up
DAY = 86400.0  # seconds after which an unfinished entry is no other process's work in progress


def digest(*parts: object) -> str:
    """A SHA-256 over the canonical JSON of some plain values, hexadecimal."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tree_digest(trees: Sequence[Tree]) -> str:
    """A hash of token ids; the boundaries of prompts and replies count."""
    sha = hashlib.sha256()
    for tree in trees:
        for part in (tree.prompt, *tree.replies):
            sha.update(len(part).to_bytes(8, "little") + np.asarray(part, dtype=np.int64).tobytes())
        sha.update(b"/")
    return sha.hexdigest()


def remember(
    path: Path | None,
    make: Callable[[], T],
    *,
    read: Callable[[Path], T],
    write: Callable[[Path, T], None],
    log: Log | None = None,
    found: str = "",
    processes: Processes = ALONE,
) -> T:
    """What is kept under ``path``, or else made and kept there.

    The cache may only ever save time: an entry that cannot be read is made again, one that cannot be written is not
    kept, and either is told.

    Args:
        path: of the entry; None keeps nothing.
        read, write: of an entry; ``read`` raises where it is damaged.
        found: what the log says of a hit.
        processes: those that make it together: all read it or all make it, and the main one keeps it.
    """
    log = log or Quiet()
    if path is None:
        return make()
    # Unlike Path.exists, os.path's is False also where a folder above may not be read.
    if processes.once(lambda: os.path.exists(path)):
        damaged = False
        try:
            value = read(path)
        except file_errors(ValueError, LookupError, TypeError, AttributeError) as error:
            log.say(f"warning: the cache entry {path} is unreadable ({error}); computing it again")
            damaged = True
        if not any(processes.gathered(damaged)):
            if found:
                log.say(found)
            return value
    value = make()
    if not processes.main:
        return value
    try:
        write_atomically(path, lambda file: write(file, value))
        sweep(path.parent, older=DAY)
    except RunError as error:
        log.say(f"warning: {path} cannot be kept ({error.__cause__}); going on without")
    return value


def reference_logprobs(
    base: Editable, trees: Sequence[Tree], run: Run, precision: Precision = "float32"
) -> list[torch.Tensor]:
    """Per-token log-probabilities of every reply under ``base``, ``(T_i,)`` nats, computed once and kept.

    Per token and not per sequence, so that every loss, averaged, truncated or summed, can use one pass. In the
    precision of the policy's passes, whose rounding then cancels: before the first update policy and base are one.
    """
    counts, processes = [len(reply) for tree in trees for reply in tree.replies], here()

    def score() -> list[torch.Tensor]:
        with autocast(precision):
            return _together(base, trees, run.log, processes)

    def read(file: Path) -> list[torch.Tensor]:
        from safetensors.torch import load_file

        tokens = load_file(file)["tokens"]
        if tokens.shape != (sum(counts),):
            raise ValueError(f"{tuple(tokens.shape)} instead of {(sum(counts),)}")
        return list(tokens.split(counts))

    def write(file: Path, pieces: list[torch.Tensor]) -> None:
        from safetensors.torch import save_file

        save_file({"tokens": torch.cat(pieces) if pieces else torch.zeros(0)}, file)

    path = None
    if run.cache is not None:
        path = run.cache / "logprobs" / f"{digest(base.fingerprint, tree_digest(trees), precision)[:40]}.safetensors"
    hit = f"  reference log-probabilities: from the cache ({len(counts)} replies)"
    return remember(path, score, read=read, write=write, log=run.log, found=hit, processes=processes)


def _together(base: Editable, trees: Sequence[Tree], log: Log, processes: Processes) -> list[torch.Tensor]:
    """``base.tree_logprobs``, each process scoring its share of the trees."""
    parts = shares([tree.size for tree in trees], processes.count)
    found = processes.gathered(base.tree_logprobs([trees[i] for i in parts[processes.index]], log))
    replies = [iter(part) for part in found]
    owner = {i: at for at, part in enumerate(parts) for i in part}
    return [next(replies[owner[i]]) for i, tree in enumerate(trees) for _ in tree.replies]


def draws(
    policy: Policy,
    chats: Sequence[Chat],
    *,
    n: int,
    sampling: Sampling,
    rng: Rng,
    cache: Path | None,
    log: Log | None = None,
) -> list[list[Draw]]:
    """``policy.sample``, computed once for one policy, chats, settings and stream."""

    def read(file: Path) -> list[list[Draw]]:
        rows = json.loads(file.read_text(encoding="utf-8"))
        found = [[Draw(d[0], tuple(d[1]), tuple(d[2]), d[3]) for d in row] for row in rows]
        if [len(row) for row in found] != [n] * len(chats):
            raise ValueError("another number of draws")
        return found

    def write(file: Path, made: list[list[Draw]]) -> None:
        rows = [[[d.text, d.token_ids, d.logprobs, d.finish] for d in row] for row in made]
        file.write_text(json.dumps(rows), encoding="utf-8")

    asked = [[[turn.role, turn.content] for turn in chat] for chat in chats]
    path = None
    if cache is not None:
        key = digest(RACE, policy.fingerprint, asked, n, vars(sampling), rng.seed, rng.path)
        path = cache / "draws" / f"{key[:40]}.json"
    return remember(
        path, lambda: policy.sample(chats, n=n, sampling=sampling, rng=rng), read=read, write=write, log=log
    )
