"""One training in many cuts: what the invariance suite trains, and on which models."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fitting

from truing.core.evidence import Demo, Evidence, Pair, Ranked, Rating
from truing.core.method import build
from truing.core.policy import user
from truing.core.run import Run
from truing.engine import vocabulary
from truing.engine.loop import Loop
from truing.engine.score import Scorer
from truing.models.local import Local

SETTINGS: dict[str, Any] = {
    "learning_rate": 2e-3,
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "eval_fraction": 0.2,
    "logging_steps": 2,
    "save_steps": 0,
    "warmup_ratio": 0.0,
}
"""Eleven of fourteen examples are trained on, four a step: the third step is shorter, the fourth begins an epoch."""


@dataclass(frozen=True)
class Varied:
    """What is done otherwise.

    Attributes:
        settings: of the training.
        replaced: things that are others while it trains: where, which, what.
        work: whether there is a folder for checkpoints.
        cache: whether the reference comes from a cache.
        bits: whether not even a bit may change, because the passes are the same.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    replaced: Sequence[tuple[Any, str, Any]] = ()
    work: bool = False
    cache: bool = False
    bits: bool = False


def plain(scorer: Scorer, trees: Sequence[Any]) -> None:
    """The model's own forward pass, one sequence at a time."""
    scorer.layout = "plain"


def backwards(loop: Loop, step: int, members: Callable[[Loop, int], list[int]] = Loop.members) -> list[int]:
    """The same examples in the opposite order."""
    return members(loop, step)[::-1]


VARIATIONS: dict[str, Varied] = {
    "one tree a pass": Varied({"tokens_per_batch": 1}),
    "few tokens a pass": Varied({"tokens_per_batch": 40}),
    "all in one pass": Varied({"tokens_per_batch": 10**6}),
    "accumulated 2 x 2": Varied({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, bits=True),
    "accumulated 1 x 4": Varied({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, bits=True),
    "blocks computed twice": Varied({"gradient_checkpointing": True}),
    "one sequence at a time": Varied(replaced=[(Scorer, "prove", plain)]),
    "in the opposite order": Varied({"tokens_per_batch": 40}, [(Loop, "members", backwards)]),
    "chunks of 3 targets": Varied(replaced=[(vocabulary, "CHUNK", 3)]),
    "evaluated between": Varied({"eval_steps": 1}, bits=True),
    "logged at every step": Varied({"logging_steps": 1}, bits=True),
    "never logged": Varied({"logging_steps": 0}, bits=True),
    "a checkpoint at every step": Varied({"save_steps": 1}, work=True, bits=True),
    "with a cache": Varied(cache=True, bits=True),
}
"""A line each. What they may not change is compared with the plain settings of :data:`SETTINGS`."""


def texts(seed: int, count: int) -> list[tuple[str, str, str]]:
    """Prompts with two replies, of very different lengths."""
    source = random.Random(seed)

    def words(most: int) -> str:
        return "".join(source.choice("abcde fghi the in ") for _ in range(source.randint(1, most)))

    return [(words(30), words(25), words(25)) for _ in range(count)]


def lists(rows: Sequence[tuple[str, str, str]]) -> list[Ranked]:
    """Lists of two, three and four replies, some with a tie, each of its row's and of those after it."""
    replies = [reply for row in rows for reply in row[1:]] * 2
    scores = (1.0, 0.0, 1.0, 0.5)
    return [
        Ranked(user(row[0]), tuple(replies[2 * i : 2 * i + size]), scores[:size])
        for i, (row, size) in enumerate(zip(rows, (2, 3, 4) * len(rows), strict=False))
    ]


TEXTS = texts(7, 14)
EVIDENCE = Evidence(
    pairs=[Pair(user(prompt), chosen, rejected) for prompt, chosen, rejected in TEXTS],
    demos=[Demo(user(prompt), reply) for prompt, reply, _ in TEXTS],
    lists=lists(TEXTS),
    ratings=[Rating(user(prompt), reply, k % 3 / 2) for k, (prompt, reply, _) in enumerate(TEXTS)],
)


def bare(weights: Sequence[float]) -> Callable[..., Local]:
    """The loop alone, with these weights of the examples."""

    def made(base: Local, run: Run, **settings: Any) -> Local:
        return fitting.train(base, fitting.TREES[:14], weights, run, **settings)

    return made


def by_method(name: str, **own: Any) -> Callable[..., Local]:
    """A real method on texts."""

    def made(base: Local, run: Run, **settings: Any) -> Local:
        trained = build(name, **own, **settings)(base, EVIDENCE, run)
        assert isinstance(trained, Local)
        return trained

    return made


TRAININGS: dict[str, Callable[..., Local]] = {
    "mean over tokens": bare(fitting.LENGTHS[:14]),
    "mean over examples": bare([1.0] * 14),
    "preference/dpo": by_method("preference/dpo"),
    "imitation/sft": by_method("imitation/sft"),
    "listwise/plackett_luce": by_method("listwise/plackett_luce"),
    "listwise/lipo": by_method("listwise/lipo"),
    "listwise/opo": by_method("listwise/opo"),
    "unpaired/kto": by_method("unpaired/kto"),  # each step beside mismatched examples of it
    "unpaired/bco": by_method("unpaired/bco"),  # a running mean
    "unlearn/npo": by_method("unlearn/npo", retain="kl"),  # two kinds of examples, and whole distributions of the base
}
