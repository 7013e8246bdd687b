"""What the tests of the probes share: choosers by brute force, hand-made pools, a policy of known density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from truing.core.errors import bad
from truing.core.policy import Chat, Draw, Reply, Sampling, Scorable, user
from truing.core.rng import Rng
from truing.probes.pool import Pool


@dataclass(frozen=True)
class Best:
    """Best-of-n weights by visiting every subset; ties are shared."""

    n: int

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        if self.n > len(scores):
            raise bad("best", "the pool is too small")
        total = np.zeros(len(scores))
        for subset in combinations(range(len(scores)), self.n):
            top = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
            total[top] += 1 / len(top)
        return total / math.comb(len(scores), self.n)


@dataclass(frozen=True)
class Soft:
    """Softmax of the scores within every subset of n."""

    n: int

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        total = np.zeros(len(scores))
        for subset in map(list, combinations(range(len(scores)), self.n)):
            share = np.exp(scores[subset])
            total[subset] += share / share.sum()
        return total / math.comb(len(scores), self.n)


def pool(scores: object, *, arm: str = "arm", source: str = "own", choose: object = None, **draw: object) -> Pool:
    """A pool with these scores; its draws say their own number."""
    table = np.array(scores, dtype=float)
    chats = tuple(user(f"prompt {p}") for p in range(len(table)))
    draws = tuple(tuple(Draw(f"{p} {i}", (p, i, 0), **draw) for i in range(table.shape[1])) for p in range(len(table)))
    return Pool(arm, source, chats, draws, table, choose)


class Table(Scorable):
    """Replies of a few tokens with a known log-probability for each token, the same for every chat."""

    def __init__(self, replies: dict[str, Sequence[float]], *, name: str = "table") -> None:
        self.replies, self.name, self.calls = {k: tuple(v) for k, v in replies.items()}, name, 0

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        texts = list(self.replies)
        mass = np.exp([sum(self.replies[text]) for text in texts])
        picks = rng.numpy().choice(len(texts), size=(len(chats), n), p=mass / mass.sum())
        return [[self.draw(texts[i]) for i in row] for row in picks]

    def draw(self, text: str) -> Draw:
        return Draw(text, tuple(range(len(self.replies[text]))), self.replies[text])

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        self.calls += 1
        texts = [reply if isinstance(reply, str) else reply.text for reply in replies]
        return [torch.tensor(self.replies[text], dtype=torch.float64) for text in texts]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        return self.name


class Listed(Table):
    """The same, and it can list them."""

    def distribution(self, chat: Chat) -> tuple[list[str], list[float]]:
        return list(self.replies), [sum(tokens) for tokens in self.replies.values()]
