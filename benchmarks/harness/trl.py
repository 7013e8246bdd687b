"""TRL as a peer: its environment, its settings, and what one run of it is told."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.arguments import Common
from harness.pairs import Prepared, prepare
from harness.venv import peer_python
from truing.core.errors import bad, did_you_mean

TRL = "trl==1.16.*"
PEERS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "plain": {"gradient_checkpointing": False},
    "precomputed": {"gradient_checkpointing": False, "precompute_ref_log_probs": True},
    "grouped": {
        "gradient_checkpointing": False,
        "precompute_ref_log_probs": True,
        "train_sampling_strategy": "group_by_length",
        "remove_unused_columns": False,  # or the column of lengths would be gone before the sampler asks for it
    },
    "lean": {"precompute_ref_log_probs": True},
}
"""TRL's settings: its defaults, and what may be faster or smaller. Its best on a machine is the fastest measured."""


def trl_options(made: argparse.ArgumentParser, *, peers: str) -> None:
    """Options of benchmarks against TRL."""
    made.add_argument("--peers", default=peers, help=f"TRL's settings, of {', '.join(PEERS)} (%(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of ours")
    made.add_argument("--peer-set", action="append", default=[], metavar="FIELD=VALUE", help="one of every peer's")


def trl_python(shared: Common) -> Path:
    """The interpreter of TRL's environment."""
    return peer_python("trl", [TRL], home=shared.venv, pip_flags=shared.pip_flags)


def chosen_pairs(words: argparse.Namespace, folder: Path, model: str) -> Prepared:
    """The pairs that the options ask for, written into a folder for both sides."""
    sizes = {"count": words.pairs, "turns": words.turns, "max_length": words.max_length, "seed": words.seed}
    return prepare(folder, model=model, data=words.data, **sizes)


def values(given: Sequence[str]) -> dict[str, Any]:
    """``FIELD=VALUE`` words as settings.

    Raises:
        InputError: a word without ``=``.
    """
    if odd := [word for word in given if "=" not in word]:
        raise bad(odd[0], "is no setting", "Write FIELD=VALUE.")
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in given)}


def peers(names: str) -> dict[str, Mapping[str, Any]]:
    """The named settings of TRL.

    Raises:
        InputError: a name that is not in :data:`PEERS`.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if odd := [name for name in asked if name not in PEERS]:
        raise bad("--peers", f"there is no {odd[0]!r}", did_you_mean(odd[0], PEERS))
    return {name: PEERS[name] for name in asked}


def job(words: argparse.Namespace, model: str) -> dict[str, Any]:
    """What both sides are told."""
    names = ("batch", "learning_rate", "beta", "max_length", "seed", "bf16", "device")
    return {"model": model, "save": False, **{name: getattr(words, name) for name in names}}


def peer_job(words: argparse.Namespace, model: str, pairs: Prepared, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of TRL is told."""
    own = {"pairs": str(pairs.peer), "settings": {**settings, **values(words.peer_set)}}
    return {**job(words, model), **own}
