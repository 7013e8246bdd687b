"""Vocabularies that differ: one tokenizer for the outcome, and every model's rows in its order.

Tokenizers are read from ``tokenizer.json`` as what they are, a table; nothing is tokenised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.engine.tensors import STRETCH, Spec, Tensors, block

FILE = "tokenizer.json"


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens and their numbers.

    Attributes:
        raw: the whole ``tokenizer.json``.
        added: those that stand outside of its model, with their settings.
    """

    folder: Path
    raw: Mapping[str, Any]
    numbers: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """Rows that it needs: one more than its greatest number."""
        return max(self.numbers.values(), default=-1) + 1


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """A model's vocabulary; None where it has no ``tokenizer.json``.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        raw = _parsed(path.read_text(encoding="utf-8"))
        model, added = raw["model"]["vocab"], {row["content"]: row for row in raw.get("added_tokens", [])}
        rows = model.items() if isinstance(model, dict) else ((token, i) for i, (token, _) in enumerate(model))
        numbers = {**dict(rows), **{token: row["id"] for token, row in added.items()}}
    except (ValueError, KeyError, TypeError) as error:
        raise bad(str(path), f"cannot be read ({error!r})", "Save the tokenizer again.") from error
    return Vocabulary(folder, raw, numbers, added)


@lru_cache(maxsize=1)
def _parsed(text: str) -> Any:
    """Not to be written to: models with the same file, one after the other, share what is read from it."""
    return json.loads(text)


def union(base: Vocabulary, others: Sequence[tuple[Vocabulary, int]]) -> Vocabulary:
    """The base's tokenizer with every token that only others have, in the order of the models and of their numbers.

    Args:
        others: vocabularies, and how many rows their models have: tokens beyond them stand for nothing.
    """
    raw = json.loads(json.dumps(base.raw))
    numbers, added = dict(base.numbers), dict(base.added)
    for other, rows in others:
        for token, number in sorted(other.numbers.items(), key=lambda pair: pair[1]):
            if token in numbers or number >= rows:
                continue
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
            row = {**plain, **other.added.get(token, {}), "content": token, "id": max(numbers.values()) + 1}
            numbers[token], added[token] = row["id"], row
            raw["added_tokens"].append(row)
    return Vocabulary(base.folder, raw, numbers, added)


@dataclass(frozen=True)
class Filling:
    """Where the row of a token comes from in the models that lack it.

    Attributes:
        sources: (model, its row), whose mean is taken; none is a row of zeros.
        force: also in the models that have it.
    """

    sources: tuple[tuple[str, int], ...]
    force: bool = False


@dataclass(frozen=True)
class Rows:
    """The rows of the outcome's embedding.

    Attributes:
        count: rows in all.
        used: rows that are a token's; what is beyond is the mean of the used ones.
        of: for each model, which of its rows each row is; -1 where it has none.
        filled: row -> where it comes from in models that lack it.
    """

    count: int
    used: int
    of: Mapping[str, Sequence[int]]
    filled: Mapping[int, Filling] = field(default_factory=dict)


def rows_for(
    out: Vocabulary,
    models: Mapping[str, tuple[Vocabulary, int]],
    base: str | None,
    tokens: Mapping[str, Filling],
    pad: int | None,
) -> Rows:
    """Which row of which model every token's row is, by mergekit's rules: a model that lacks a token takes the row of
    the only model that has it, else the base's, else the mean of those that have it, else zeros.

    Args:
        models: name -> vocabulary, and how many rows the model has.
        tokens: rules for single tokens, which come first.
        pad: fill up to a multiple.
    """
    size = out.size
    of = {name: [-1] * size for name in models}
    filled: dict[int, Filling] = {}
    for token, number in out.numbers.items():
        for name, (vocabulary, rows) in models.items():
            own = vocabulary.numbers.get(token, -1)
            of[name][number] = own if own < rows else -1
        having = [(name, of[name][number]) for name in models if of[name][number] >= 0]
        if token in tokens:
            filled[number] = tokens[token]
        elif len(having) < len(models):
            known = [pair for pair in having if pair[0] == base]
            filled[number] = Filling(tuple(known if known and len(having) > 1 else having))
    count = size if pad is None else -(-size // pad) * pad
    return Rows(count, size, of, filled)


class Reordered(Tensors):
    """A model's tensors with the rows of its vocabulary in the outcome's order.

    Args:
        model: which of ``everyone`` this is.
        everyone: the tensors of all models, whose rows may be borrowed.
        names: the tensors whose first axis is the vocabulary.
    """

    def __init__(self, model: str, everyone: Mapping[str, Tensors], rows: Rows, names: frozenset[str]) -> None:
        self.model, self.own, self.everyone = model, everyone[model], everyone
        self.rows, self.names = rows, names

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def spec(self, name: str) -> Spec:
        own = self.own.spec(name)
        return Spec((self.rows.count, *own.shape[1:]), own.dtype) if name in self.names else own

    def cheap(self, name: str) -> bool:
        return name not in self.names and self.own.cheap(name)

    def cost(self, name: str) -> int:
        return 3 * self.spec(name).size if name in self.names else self.own.cost(name)

    def stretch(self, name: str, start: int, stop: int) -> torch.Tensor:
        return self.read(name).flatten()[start:stop] if name in self.names else self.own.stretch(name, start, stop)

    def pieces(self, name: str) -> Iterator[tuple[int, torch.Tensor]]:
        if name in self.names:
            yield from ((at * STRETCH, part) for at, part in enumerate(self.read(name).flatten().split(STRETCH)))
        else:
            yield from self.own.pieces(name)

    def read(self, name: str) -> torch.Tensor:
        own = self.own.read(name)
        if name not in self.names:
            return own
        places = torch.tensor(self.rows.of[self.model])
        made = torch.zeros(self.rows.count, *own.shape[1:], dtype=own.dtype)
        has = (places >= 0).nonzero().flatten()
        made[has] = own[places[has]]
        lacking = [n for n, rule in self.rows.filled.items() if rule.force or int(places[n]) < 0]
        wanted = {number: self.rows.filled[number].sources for number in lacking}
        width = own[0].numel()
        for model in dict.fromkeys(name for sources in wanted.values() for name, _ in sources):
            theirs = self.everyone[model]
            for number, sources in wanted.items():
                for donor, row in (pair for pair in sources if pair[0] == model):
                    piece = theirs.stretch(name, row * width, (row + 1) * width).to(own.dtype)
                    share = piece.reshape(own.shape[1:]) / len(sources)
                    made[number] = share if donor == sources[0][0] else made[number] + share
        for number in (n for n, sources in wanted.items() if not sources):
            made[number] = 0
        if self.rows.count > self.rows.used:
            made[self.rows.used :] = made[: self.rows.used].mean(0)
        return made


def vocabulary_tensors(tensors: Tensors, rows: int) -> frozenset[str]:
    """The tensors whose first axis is the vocabulary: those outside of blocks with as many rows."""
    return frozenset(
        name for name in tensors if block(name) is None and tensors.spec(name).shape[:1] == (rows,)
        and ("embed" in name or "head" in name or "wte" in name)
    )  # fmt: skip
