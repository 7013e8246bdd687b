"""What can be computed again, kept on disk under a hash of everything that decides it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from truing.core.lazy import torch
from truing.core.policy import Chat, Draw, Editable, Policy, Sampling, Tree
from truing.core.rng import Rng
from truing.core.run import Log, Run
from truing.engine.processes import Processes, here, shares


def digest(*parts: object) -> str:
    """A SHA-256 over the canonical JSON of some plain values, hexadecimal."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=list)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary neighbour, then rename it: no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def tree_digest(trees: Sequence[Tree]) -> str:
    """A hash of token ids; the boundaries of prompts and replies count."""
    sha = hashlib.sha256()
    for tree in trees:
        for part in (tree.prompt, *tree.replies):
            sha.update(len(part).to_bytes(8, "little") + np.asarray(part, dtype=np.int64).tobytes())
        sha.update(b"/")
    return sha.hexdigest()


def reference_logprobs(base: Editable, trees: Sequence[Tree], run: Run) -> list[torch.Tensor]:
    """Per-token log-probabilities of every reply under ``base``, ``(T_i,)`` nats, computed once and kept.

    Per token and not per sequence, so that every loss, averaged, truncated or summed, can use one pass.
    """
    processes = here()
    if run.cache is None:
        return _together(base, trees, run.log, processes)
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path = run.cache / "logprobs" / f"{digest(base.fingerprint, tree_digest(trees))[:40]}.safetensors"
    counts = [len(reply) for tree in trees for reply in tree.replies]
    if processes.once(path.exists):
        try:
            tokens = load_file(path)["tokens"]
            if tokens.shape == (sum(counts),):
                run.log.say(f"  reference log-probabilities: from the cache ({len(counts)} replies)")
                return list(tokens.split(counts))
            reason = f"{tuple(tokens.shape)} instead of {(sum(counts),)}"
        except (SafetensorError, KeyError, OSError) as error:
            reason = str(error)
        run.log.say(f"warning: the cache entry {path} is unreadable ({reason}); computing it again")
    found = _together(base, trees, run.log, processes)
    whole = torch.cat(found) if found else torch.zeros(0)
    if processes.main:
        write_atomically(path, lambda file: save_file({"tokens": whole}, file))
    return found


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

    def sample() -> list[list[Draw]]:
        return policy.sample(chats, n=n, sampling=sampling, rng=rng)

    if cache is None:
        return sample()
    asked = [[[turn.role, turn.content] for turn in chat] for chat in chats]
    key = digest(policy.fingerprint, asked, n, vars(sampling), rng.seed, rng.path)
    path = cache / "draws" / f"{key[:40]}.json"
    if path.exists():
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            found = [[Draw(d[0], tuple(d[1]), tuple(d[2]), d[3]) for d in row] for row in rows]
            if [len(row) for row in found] == [n] * len(chats):
                return found
            reason = "another number of draws"
        except (ValueError, LookupError, TypeError, OSError) as error:
            reason = str(error)
        if log is not None:
            log.say(f"warning: the cache entry {path} is unreadable ({reason}); drawing again")
    made = sample()
    text = json.dumps([[[d.text, d.token_ids, d.logprobs, d.finish] for d in row] for row in made], ensure_ascii=False)
    write_atomically(path, lambda file: _write(file, text))
    return made


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
