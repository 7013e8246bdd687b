"""From a merge as it is written to the tensors that it makes: which from which, by what, with what settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truing.core.errors import Fault, InputError
from truing.core.lazy import torch
from truing.core.method import build
from truing.core.rng import Rng
from truing.engine.tensors import Spec, Tensors, block, renumbered
from truing.methods.merge._blend import Blend, Part, Source
from truing.methods.merge._family import MergeMethod
from truing.pipeline.merging.opening import Model, open_models, surplus, unlike
from truing.pipeline.merging.reading import Config, Entry, Slice
from truing.pipeline.merging.references import Reference
from truing.pipeline.merging.table import METHODS, REQUIRED, Rules, settings
from truing.pipeline.merging.tokens import Tokens, align
from truing.pipeline.merging.values import first

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_MOST = 8  # faults of one kind that are told


@dataclass
class Plan:
    """A merge that can be made.

    Attributes:
        blend: the tensors, lazily.
        head: the model whose configuration the outcome has: the base, or the first.
        changes: what is another value in ``config.json``.
        tokens: the outcome's tokenizer, where it is not the head's.
        notes: what a reader must know.
    """

    config: Config
    blend: Blend
    models: Mapping[Reference, Model]
    head: Model
    changes: dict[str, Any]
    tokens: Tokens
    notes: list[str] = field(default_factory=list)


def plan(config: Config, *, seed: int = 0, allow_nan: bool = False) -> Plan:
    """Open the models and say how every tensor is made. No weight is read.

    Raises:
        InputError: every fault of models, shapes, vocabularies and parameters at once.
    """
    models = open_models(config.references())
    head = models[config.base_model or config.slices[0].sources[0].model]
    faults = [fault for model in models.values() for fault in unlike(head, model)]
    if faults:
        raise InputError(*faults)
    tokens = align(config, models, head)
    planner = _Planner(config, models, tokens.tensors, head)
    planner.go()
    if planner.faults:
        raise InputError(*planner.faults)
    blend = Blend(planner.parts, Rng(seed).child("merge"), finite=not allow_nan)
    return Plan(config, blend, models, head, {**planner.changes(), **tokens.changes}, tokens, tokens.notes)


class _Planner:
    """Walks over the slices and makes a part of every tensor."""

    def __init__(
        self, config: Config, models: Mapping[Reference, Model], tensors: Mapping[Reference, Tensors], head: Model
    ) -> None:
        self.config, self.models, self.tensors, self.head = config, models, tensors, head
        self.rules: Rules = METHODS[config.method]
        self.parts: dict[str, Part] = {}
        self.faults: list[Fault] = []
        self.made: dict[tuple[tuple[str, Any], ...], MergeMethod | None] = {}
        self.layers: list[tuple[Model, int]] = []

    def go(self) -> None:
        slices = [self._completed(part) for part in self.config.slices]
        if self.faults:
            return
        for name in self._outside(slices[0]):
            if _before(name):
                self._add(name, name, slices[0], [None] * len(slices[0].sources), 0.0)
        for part in slices:
            for number, offset, depth in self._blocks(part):
                places = [(source.layers or (0, 0))[0] + offset for source in part.sources]
                lead, place = self.models[part.sources[_lead(part)].model], places[_lead(part)]
                self.layers.append((lead, place))
                for name in lead.tensors:
                    if block(name) == place:
                        self._add(renumbered(name, number), name, part, places, depth)
        for name in self._outside(slices[-1]):
            if not _before(name):
                self._add(name, name, slices[-1], [None] * len(slices[-1].sources), 0.0)

    def _completed(self, part: Slice) -> Slice:
        """The slice with its base among its models and the ranges of its blocks; what does not fit is noted."""
        base, sources = part.base_model or self.config.base_model, list(part.sources)
        listed = [source.model for source in sources]
        if self.config.whole and base is not None and base not in listed:
            if self.config.method in ("linear", "passthrough"):
                fact = f"{base} is the base and not among the models, so it has no part in {self.config.method}"
                self.faults.append(Fault("base_model", fact, "List it with its parameters, or leave base_model out."))
            sources.append(Entry(base, None, {}, "base_model"))
        known = [source.model for source in sources]
        if self.rules.base == "needed" and (base is None or base not in known):
            fact = f"{self.config.method} needs a base" + (
                "" if base is None else f", and {base} is none of its models"
            )
            self.faults.append(Fault(part.place, fact, "Set base_model, and name it among the sources of every slice."))
        beside = len(known) - (self.rules.base != "alike" and base in known)
        least, most = self.rules.models
        if beside < least or (most is not None and beside > most):
            told = f"{least}" if least == most else f"at least {least}"
            whom = "" if self.rules.base == "alike" else " beside the base"
            fact = f"{self.config.method} takes {told} model{'s' * (told != '1')}{whom}, and there are {beside}"
            self.faults.append(Fault(part.place, fact))
        for source in sources:
            blocks = self.models[source.model].blocks
            if source.layers and source.layers[1] > blocks:
                fact = f"ends at {source.layers[1]}, and {source.model} has {blocks} blocks"
                self.faults.append(Fault(f"{source.place}.layer_range", fact, f"End at {blocks} at most."))
        lead = self.models[base if base in known else known[0]]
        for other in dict.fromkeys(known):
            self.faults += surplus(lead, self.models[other], blocks=self.config.whole)
        whole = (0, lead.blocks)
        return replace(part, sources=tuple(replace(s, layers=s.layers or whole) for s in sources), base_model=base)

    def _blocks(self, part: Slice) -> Iterator[tuple[int, int, float]]:
        """For each block of a slice: its number in the outcome, its place in the slice, and how deep in it it lies."""
        begin, end = part.sources[0].layers or (0, 0)
        for offset in range(end - begin):
            yield len(self.layers), offset, offset / (end - begin - 1) if end - begin > 1 else 1.0

    def _outside(self, part: Slice) -> list[str]:
        return [name for name in self.models[part.sources[_lead(part)].model].tensors if block(name) is None]

    def _add(self, out: str, lead: str, part: Slice, places: Sequence[int | None], depth: float) -> None:
        """One tensor: its sources, the method with the settings that hold here, and its type."""
        sources = []
        for source, place in zip(part.sources, places, strict=True):
            model = self.models[source.model]
            name = model.named(lead if place is None else renumbered(lead, place))
            if name not in model.tensors:
                self.faults.append(Fault(model.name, f"lacks {name}", "Merge models of one architecture."))
                return
            sources.append(Source(self.tensors[source.model], name, model.name))
        own = sources[_lead(part)]
        shapes = {source.model: source.spec().shape for source in sources}
        odd = [f"{shape} in {model}" for model, shape in shapes.items() if shape != own.spec().shape]
        if odd:
            if len(self.faults) < _MOST:
                fact = f"is {own.spec().shape} in {own.model}, and {odd[0]}"
                self.faults.append(Fault(out, fact, "Merge models of one architecture."))
            return
        at = next((i for i, source in enumerate(part.sources) if source.model == part.base_model), None)
        if self.rules.base == "alike" or at is None:
            base, donors = sources[0], sources[1:] if self.rules.base == "alike" else sources
        else:
            base, donors = sources[at], [source for i, source in enumerate(sources) if i != at]
        kept = self.models[part.sources[at or 0].model]
        dtype = kept.kept.spec(base.name).dtype if base.name in kept.kept else base.spec().dtype
        if not dtype.is_floating_point:
            self.parts[out] = Part(base.spec(), base)
            return
        written = self.config.out_dtype or self.config.dtype
        spec = Spec(base.spec().shape, getattr(torch, written) if written else dtype)
        wide = torch.float64 if self.config.dtype == "float64" else None
        method = self._method(out, [source.name for source in sources], part, at, depth)
        if self.config.method == "passthrough":
            donors = [base] if method else []
        self.parts[out] = Part(spec, base, tuple(donors), method, depth, wide)

    def _method(self, out: str, names: Sequence[str], part: Slice, at: int | None, depth: float) -> MergeMethod | None:
        """The method with the settings that hold at a tensor; None where it copies."""
        levels = [part.parameters, self.config.module, self.config.parameters]
        shared = {name: self._value(name, default, levels, out, depth) for name, default in self.rules.shared.items()}
        each = []
        for i, (source, name) in enumerate(zip(part.sources, names, strict=True)):
            if i == at and self.rules.base != "alike":
                continue
            own = [source.parameters, *levels]
            each.append({key: self._value(key, default, own, name, depth) for key, default in self.rules.each.items()})
        if any(value is REQUIRED for row in (shared, *each) for value in row.values()):
            return None
        fields = settings(self.config.method, each, shared, base=at is not None)
        key = tuple(sorted(fields.items(), key=lambda pair: pair[0]))
        if key not in self.made:
            self.made[key] = self._built(fields, out)
        return self.made[key]

    def _built(self, fields: Mapping[str, Any], out: str) -> MergeMethod | None:
        if self.config.method == "passthrough" and fields["scale"] == 1.0:
            return None
        try:
            made = build(self.rules.name, **fields)
        except InputError as error:
            self.faults += [Fault(f"parameters, at {out}", fault.fact, fault.mend) for fault in error.faults]
            return None
        return made if isinstance(made, MergeMethod) else None

    def _value(self, name: str, default: Any, levels: Sequence[Mapping[str, Any]], tensor: str, depth: float) -> Any:
        found = first(name, levels, tensor, depth)
        if found is None and default is REQUIRED:
            fault = Fault("parameters", f"{name!r} is missing at {tensor}", "Give it, or a value without a filter.")
            if not any(known.fact.startswith(f"{name!r} is missing") for known in self.faults):
                self.faults.append(fault)
        return default if found is None else found

    def changes(self) -> dict[str, Any]:
        """What is another number of blocks in the configuration, and the lists that have a value for each."""
        found: dict[str, Any] = {}
        if self.config.whole:
            return found
        before = self.head.blocks
        for key in _LAYERS:
            if key in self.head.config:
                found[key] = len(self.layers)
        for key, value in self.head.config.items():
            if isinstance(value, list) and len(value) == before and key != "architectures":
                found[key] = [model.config.get(key, value)[place] for model, place in self.layers]
        return found


def _lead(part: Slice) -> int:
    """Which of a slice's models says what tensors there are: its base, or else the first."""
    return next((i for i, source in enumerate(part.sources) if source.model == part.base_model), 0)


def _before(name: str) -> bool:
    """Whether a tensor outside of blocks comes before them: an embedding."""
    return any(part in name for part in ("embed", "wte", "wpe"))
