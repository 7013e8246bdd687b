"""One tokenizer for the outcome of a merge, and every model's tensors in its order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truing.core.errors import Fault, InputError, bad
from truing.engine.tensors import Tensors
from truing.models.folder import find_folder
from truing.pipeline.merging.opening import Model
from truing.pipeline.merging.reading import Config, TokenizerChoice
from truing.pipeline.merging.references import Reference
from truing.pipeline.merging.vocabulary import (
    FILE,
    Filling,
    Reordered,
    Rows,
    Vocabulary,
    read_vocabulary,
    rows_for,
    union,
)

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
_MEND = "Set tokenizer_source: union (every token) or base (the base's alone)."


@dataclass
class Tokens:
    """The tokenizer of the outcome.

    Attributes:
        tensors: every model's, with its rows in the outcome's order.
        folder: whose tokenizer files are copied.
        written: a ``tokenizer.json`` in place of theirs; None where it stays.
        changes: of ``config.json``.
        numbers: old number -> new one of special tokens, where they changed.
        template: the chat template, where one was asked for.
    """

    tensors: Mapping[Reference, Tensors]
    folder: Path
    written: Mapping[str, Any] | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    numbers: Mapping[int, int] | None = None
    template: str | None = None
    notes: list[str] = field(default_factory=list)


def align(config: Config, models: Mapping[Reference, Model], head: Model) -> Tokens:
    """Bring all vocabularies into one order, or refuse what would be gibberish.

    Raises:
        InputError: vocabularies differ and nothing says which to take, or a model has no vocabulary that can be read.
    """
    plain = Tokens({reference: model.tensors for reference, model in models.items()}, head.folder)
    plain.template = _template(config, models)
    if config.tokenizer is None:
        return _as_they_are(plain, models, head)
    choice = config.tokenizer
    folder = find_folder(choice.source.path) if isinstance(choice.source, Reference) else head.folder
    faults = [
        Fault(model.name, f"has no {FILE} to align", "Load and save its tokenizer with transformers first.")
        for model in models.values()
        if model.vocabulary is None
    ]
    faults += [
        Fault(model.name, "has no embedding that is known by its name", "Leave the tokenizer out.")
        for model in models.values()
        if model.embedding is None
    ]
    if "vocab_size" not in head.config:
        faults.append(Fault(head.name, "has no vocab_size in its configuration", "Leave the tokenizer out."))
    if faults:
        raise InputError(*faults)
    known = {str(r): (m.vocabulary, m.rows) for r, m in models.items() if m.vocabulary is not None}
    out = read_vocabulary(folder)
    if out is None:
        raise bad(str(folder), f"has no {FILE}", "Name another model's tokenizer.")
    if choice.source == "union":
        out = union(out, list(known.values()))
    base = str(config.base_model) if config.base_model else None
    rows = rows_for(out, known, base, _fillings(choice, models, out), choice.pad)
    everyone = {str(reference): model.tensors for reference, model in models.items()}
    plain.tensors = {r: Reordered(str(r), everyone, rows, m.of_vocabulary) for r, m in models.items()}
    plain.folder, plain.written = folder, out.raw if choice.source == "union" else None
    plain.changes["vocab_size"] = rows.count
    if folder != head.folder and head.vocabulary is not None:
        plain.numbers = {n: out.numbers[t] for t, n in head.vocabulary.numbers.items() if t in out.numbers}
    zeros = sum(1 for rule in rows.filled.values() if not rule.sources)
    if zeros:
        plain.notes.append(f"{zeros} tokens are in no model and have rows of zeros.")
    return plain


def _as_they_are(plain: Tokens, models: Mapping[Reference, Model], head: Model) -> Tokens:
    """No tokenizer was asked for: the vocabularies must be one; rows beyond it are padding, and the base's count."""
    faults = []
    for model in models.values():
        ours, theirs = head.vocabulary, model.vocabulary
        if ours is None or theirs is None or ours.numbers == theirs.numbers:
            continue
        # Tokens beyond a model's rows stand for nothing there.
        inner, outer = ({t: n for t, n in v.numbers.items() if n < m.rows} for v, m in ((ours, head), (theirs, model)))
        odd = sorted(t for t in inner.keys() | outer.keys() if inner.get(t) != outer.get(t))
        if odd:
            fact = f"has another vocabulary than {head.name}: {len(odd)} tokens have other numbers, {odd[0]!r} first"
            faults.append(Fault(model.name, fact, _MEND))
    if faults:
        raise InputError(*faults)
    padded = {reference: model for reference, model in models.items() if model.rows != head.rows}
    if not padded:
        return plain
    unsure = [m.name for m in (head, *padded.values()) if m.vocabulary is None or m.vocabulary.size > m.rows]
    if unsure:
        fact = f"has another number of rows than {head.name}, and no {FILE} says that they are padding"
        raise bad(next(iter(padded.values())).name, fact, _MEND)
    everyone = {str(reference): model.tensors for reference, model in models.items()}
    name = next(str(reference) for reference, model in models.items() if model is head)
    of = {str(r): [i if i < m.rows else -1 for i in range(head.rows)] for r, m in models.items()}
    rows = Rows(head.rows, head.rows, of, {i: Filling(((name, i),)) for i in range(head.rows)})
    plain.tensors = {
        r: Reordered(str(r), everyone, rows, m.of_vocabulary) if r in padded else m.tensors for r, m in models.items()
    }
    plain.notes.append(f"{', '.join(m.name for m in padded.values())}: other padding rows; {head.name}'s are kept.")
    return plain


def _fillings(choice: TokenizerChoice, models: Mapping[Reference, Model], out: Vocabulary) -> dict[str, Filling]:
    """The rules for single tokens."""
    found: dict[str, Filling] = {}
    for token, rule in choice.tokens.items():
        place = f"tokenizer.tokens.{token}"
        if token not in out.numbers:
            raise bad(place, "is no token of the outcome", "Tokens that no tokenizer has are not added here.")
        source, force = rule.get("source"), bool(rule.get("force", False))
        if isinstance(source, Mapping) and source.get("kind") == "zero":
            found[token] = Filling((), force)
        elif source is not None:
            found[token] = Filling((_row(source, token, models, place),), force)
        elif force:
            raise bad(place, "is forced, and has no source", "Give a source.")
    return found


def _row(source: Any, token: str, models: Mapping[Reference, Model], place: str) -> tuple[str, int]:
    if isinstance(source, Mapping) and source.get("kind") == "model_token":
        reference, number = Reference.of(source.get("model")), source.get("token_id")
        token = str(source.get("token", token))
    else:
        reference, number = Reference.of(source), None
    model = models.get(reference)
    if model is None or model.vocabulary is None:
        raise bad(place, f"{reference} is no model of the merge", f"Give one of {', '.join(map(str, models))}.")
    number = model.vocabulary.numbers.get(token) if number is None else number
    if not isinstance(number, int) or not 0 <= number < model.rows:
        raise bad(place, f"{reference} has no row for it", "Give a token that the model knows.")
    return str(reference), number


def _template(config: Config, models: Mapping[Reference, Model]) -> str | None:
    """The chat template that was asked for; ``auto`` is the one that most models have, the first of several."""
    if config.chat_template != "auto":
        return config.chat_template
    found = [text for model in models.values() if (text := template_of(model.folder))]
    return Counter(found).most_common(1)[0][0] if found else None


def template_of(folder: Path) -> str | None:
    """A folder's chat template, where it has one."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8").strip()
    if not (folder / "tokenizer_config.json").exists():
        return None
    found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    return found.strip() if isinstance(found, str) else None


def renumber_special(settings: dict[str, Any], numbers: Mapping[int, int]) -> None:
    """Special tokens of a configuration under their new numbers; those that are gone are left out."""
    for key in _SPECIAL:
        value = settings.get(key)
        if isinstance(value, int):
            settings[key] = numbers.get(value)
        elif isinstance(value, list):
            settings[key] = [numbers[n] for n in value if n in numbers]
