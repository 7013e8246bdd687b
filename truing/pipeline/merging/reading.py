"""mergekit's YAML as a value, with every fault that can be seen without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from truing.core.errors import Fault, InputError, did_you_mean
from truing.core.recipe import numbers
from truing.pipeline.merging.references import Reference
from truing.pipeline.merging.table import METHODS
from truing.pipeline.merging.values import setting_faults

KEYS = (
    "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
TYPES = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Entry:
    """One model of a slice.

    Attributes:
        layers: first block and the one after the last; None is all of them.
    """

    model: Reference
    layers: tuple[int, int] | None
    parameters: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class Slice:
    """Blocks of the outcome that are made together."""

    sources: tuple[Entry, ...]
    base_model: Reference | None
    parameters: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class TokenizerChoice:
    """What tokenizer the outcome has.

    Attributes:
        source: ``base``, ``union``, or a model.
        tokens: token -> what its row is where a model lacks it (``source``), and whether everywhere (``force``).
        pad: rows are filled up to a multiple of this.
    """

    source: str | Reference = "union"
    tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pad: int | None = None


@dataclass(frozen=True)
class Config:
    """A merge as it was written.

    Attributes:
        slices: from the first block to the last; ``models:`` are one slice of all blocks.
        whole: whether it was written as ``models:``, to which the base is added by itself.
        module: parameters of the module.
        raw: the YAML.
    """

    method: str
    slices: tuple[Slice, ...]
    whole: bool
    base_model: Reference | None
    parameters: Mapping[str, Any]
    module: Mapping[str, Any]
    dtype: str | None
    out_dtype: str | None
    tokenizer: TokenizerChoice | None
    chat_template: str | None
    raw: Mapping[str, Any]

    def references(self) -> list[Reference]:
        """Every model whose weights are merged, the base first."""
        named = [self.base_model, *(part.base_model for part in self.slices)]
        named += [source.model for part in self.slices for source in part.sources]
        return list(dict.fromkeys(reference for reference in named if reference is not None))


def load_merge(path: Path) -> Config:
    """Read a merge.

    Raises:
        InputError: every fault of the file at once.
    """
    raw = numbers(yaml.safe_load(path.read_text(encoding="utf-8")))
    return parse_merge(raw)


def parse_merge(raw: Mapping[str, Any]) -> Config:
    """A merge from plain values.

    Raises:
        InputError: every fault at once.
    """
    method = str(raw.get("merge_method"))
    reader = _Reader([], method)
    reader.known(raw, KEYS, "")
    if method not in METHODS:
        reader.fault("merge_method", f"there is no {method!r}", did_you_mean(method, METHODS))
    slices, module = reader.body(raw)
    config = Config(
        method=method,
        slices=tuple(slices),
        whole=all(source.layers is None for part in slices for source in part.sources),
        base_model=reader.reference(raw.get("base_model"), "base_model"),
        parameters=reader.parameters(raw, ""),
        module=module,
        dtype=reader.kind(raw, "dtype"),
        out_dtype=reader.kind(raw, "out_dtype"),
        tokenizer=reader.tokenizer(raw),
        chat_template=reader.text(raw, "chat_template"),
        raw=raw,
    )
    if reader.faults:
        raise InputError(*reader.faults)
    return config


class _Reader:
    """Reads plain values and notes what is wrong with them."""

    def __init__(self, faults: list[Fault], method: str) -> None:
        self.faults, self.rules = faults, METHODS.get(method)

    def fault(self, place: str, fact: str, mend: str = "") -> None:
        self.faults.append(Fault(place, fact, mend))

    def known(self, raw: Mapping[str, Any], keys: Sequence[str], place: str) -> None:
        for key in raw:
            if key not in keys:
                self.fault(f"{place}.{key}".lstrip("."), "is not known here", did_you_mean(str(key), keys))

    def mapping(self, value: Any, place: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault(place, f"is {value!r}", "Give a mapping.")
            return {}
        return value

    def listed(self, value: Any, place: str) -> list[Mapping[str, Any]]:
        if not isinstance(value, list) or not value:
            self.fault(place, f"is {value!r}", "Give a list with at least one entry.")
            return []
        return [self.mapping(item, f"{place}[{i}]") for i, item in enumerate(value)]

    def body(self, raw: Mapping[str, Any]) -> tuple[list[Slice], Mapping[str, Any]]:
        """The slices, however they were written, and the parameters of the module."""
        given = [key for key in ("models", "slices", "modules") if raw.get(key)]
        if len(given) != 1:
            self.fault("", f"has {' and '.join(given) or 'no models'}", "Give one of models, slices and modules.")
            return [], {}
        if given[0] != "modules":
            return self.slices(raw, ""), {}
        modules = self.mapping(raw["modules"], "modules")
        if len(modules) != 1:
            self.fault("modules", f"names {', '.join(modules)}", "Models of several modules are not merged: give one.")
            return [], {}
        ((name, module),) = modules.items()
        module = self.mapping(module, f"modules.{name}")
        self.known(module, ("slices", "models", "parameters", "name"), f"modules.{name}")
        return self.slices(module, f"modules.{name}."), self.parameters(module, f"modules.{name}.")

    def slices(self, raw: Mapping[str, Any], place: str) -> list[Slice]:
        if raw.get("models"):
            rows = self.listed(raw["models"], f"{place}models")
            entries = [self.entry(row, f"{place}models[{i}]", ranged=False) for i, row in enumerate(rows)]
            return [Slice(tuple(entry for entry in entries if entry), None, {}, f"{place}models")]
        found = []
        for i, row in enumerate(self.listed(raw.get("slices"), f"{place}slices")):
            at = f"{place}slices[{i}]"
            self.known(row, ("sources", "base_model", "parameters", "residual_weight"), at)
            if row.get("residual_weight") is not None:
                self.fault(
                    f"{at}.residual_weight", "is not supported", "Leave it out; mergekit does not read it either."
                )
            sources = [
                self.entry(source, f"{at}.sources[{k}]", ranged=True)
                for k, source in enumerate(self.listed(row.get("sources"), f"{at}.sources"))
            ]
            kept = tuple(source for source in sources if source)
            if len({last - first for first, last in (source.layers or (0, 0) for source in kept)}) > 1:
                self.fault(at, "its sources have different numbers of layers", "Give ranges of one length.")
            base = self.reference(row.get("base_model"), f"{at}.base_model")
            found.append(Slice(kept, base, self.parameters(row, f"{at}."), at))
        return found

    def entry(self, row: Mapping[str, Any], place: str, *, ranged: bool) -> Entry | None:
        self.known(row, ("model", "parameters", *(("layer_range",) if ranged else ())), place)
        model = self.reference(row.get("model"), f"{place}.model")
        if model is None:
            if row.get("model") is None:
                self.fault(f"{place}.model", "is missing", "Name a folder or a Hub model.")
            return None
        layers = None
        if ranged:
            value = row.get("layer_range")
            given = value if isinstance(value, list) and all(type(part) is int for part in value) else []
            if len(given) != 2 or not 0 <= given[0] < given[1]:
                self.fault(f"{place}.layer_range", f"is {value!r}", "Give [first, last + 1].")
                return None
            layers = (given[0], given[1])
        return Entry(model, layers, self.parameters(row, f"{place}.", own=True), place)

    def reference(self, value: Any, place: str) -> Reference | None:
        if value is None:
            return None
        try:
            return Reference.of(value)
        except InputError as error:
            self.faults += [Fault(place, fault.fact, fault.mend) for fault in error.faults]
            return None

    def parameters(self, raw: Mapping[str, Any], place: str, *, own: bool = False) -> Mapping[str, Any]:
        """Parameters of a level; ``own`` are those of one model."""
        found = self.mapping(raw.get("parameters"), f"{place}parameters")
        for name, setting in found.items():
            at = f"{place}parameters.{name}"
            self.faults += setting_faults(setting, at)
            if self.rules is None or name in self.rules.each or name in self.rules.ignored:
                continue
            if name not in self.rules.shared:
                fact = f"is no parameter of {self.rules.name.removeprefix('merge/')}"
                self.fault(at, fact, did_you_mean(str(name), self.rules.known))
            elif own:
                self.fault(
                    at, "is one of the merge, not of a model", "Write it under the file's or the slice's parameters."
                )
        return found

    def kind(self, raw: Mapping[str, Any], key: str) -> str | None:
        value = raw.get(key)
        if value is not None and value not in TYPES:
            self.fault(key, f"is {value!r}", f"Give one of {', '.join(TYPES)}.")
        return value

    def text(self, raw: Mapping[str, Any], key: str) -> str | None:
        value = raw.get(key)
        if value is not None and (not isinstance(value, str) or (value != "auto" and "{" not in value)):
            self.fault(key, f"is {value!r}", "Give 'auto' or the template itself; templates by name are not kept here.")
        return value

    def tokenizer(self, raw: Mapping[str, Any]) -> TokenizerChoice | None:
        source, long = raw.get("tokenizer_source"), raw.get("tokenizer")
        if source is not None and long is not None:
            self.fault("tokenizer", "stands beside tokenizer_source", "Give one of the two.")
        if source is not None:
            return TokenizerChoice(self.tokenizer_source(source, "tokenizer_source"))
        if long is None:
            return None
        long = self.mapping(long, "tokenizer")
        self.known(long, ("source", "tokens", "pad_to_multiple_of"), "tokenizer")
        pad = long.get("pad_to_multiple_of")
        if pad is not None and (type(pad) is not int or pad < 1):
            self.fault("tokenizer.pad_to_multiple_of", f"is {pad!r}", "Give a whole number, 1 or more.")
        tokens = self.mapping(long.get("tokens"), "tokenizer.tokens")
        rows = {str(token): self.mapping(row, f"tokenizer.tokens.{token}") for token, row in tokens.items()}
        for token, row in rows.items():
            self.known(row, ("source", "force"), f"tokenizer.tokens.{token}")
        return TokenizerChoice(self.tokenizer_source(long.get("source", "union"), "tokenizer.source"), rows, pad)

    def tokenizer_source(self, value: Any, place: str) -> str | Reference:
        return value if value in ("base", "union") else self.reference(value, place) or "base"
