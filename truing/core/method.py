"""The one call that training, merging, prompting, sampling, selecting and measuring are.

A method is a frozen dataclass: its fields are its whole configuration, the recipe's schema and the axes of a
sweep. Its name is its path: ``preference/dpo`` is the one method in ``truing/methods/preference/dpo.py``.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError

from truing.core.errors import Fault, InputError, bad, did_you_mean
from truing.core.evidence import Evidence
from truing.core.measures import Measures
from truing.core.policy import Editable, Policy, Scorable
from truing.core.run import Run

Outcome = Policy | Evidence | Measures
P = TypeVar("P", bound=Policy, contravariant=True)
O = TypeVar("O", bound=Outcome, covariant=True)  # noqa: E741 - the protocol's own letter
LADDER: tuple[type[Policy], ...] = (Policy, Scorable, Editable)


@dataclass(frozen=True)
class Card:
    """What there is to know of a method without running it.

    Attributes:
        name: its path, ``family/method``.
        summary: the first line of its docstring.
        paper: where it was published.
        dial: the field that a report sweeps.
        neutral: settings at which nothing changes.
        needs: the rung of the ladder that the base must stand on.
        gives: the rung, or Evidence, or Measures.
        reads, writes: fields of :class:`Evidence`.
        kind: the class itself.
    """

    name: str
    summary: str
    paper: str
    dial: str
    neutral: Mapping[str, object]
    needs: type[Policy]
    gives: type[Policy] | type[Evidence] | type[Measures]
    reads: frozenset[str]
    writes: frozenset[str]
    kind: type

    @property
    def defaults(self) -> Mapping[str, object]:
        """Name -> default, in the order of declaration."""
        return {f.name: f.default for f in dataclasses.fields(self.kind)}

    @cached_property
    def fields(self) -> Mapping[str, tuple[Any, object]]:
        """Name -> (type, default), in the order of declaration; at first use, since a type is read from its text."""
        return MappingProxyType({f.name: (t, f.default) for f, t in _fields(self.kind)})

    @property
    def family(self) -> str:
        """The folder."""
        return self.name.split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Method(ABC, Generic[P, O]):
    """Takes a base policy and evidence, and gives a new policy, new evidence, or measures.

    Attributes:
        reads: fields of the evidence that it cannot do without.
        reads_any: fields of which it needs one at least; none where this is empty.
    """

    card: ClassVar[Card]
    reads: ClassVar[frozenset[str]] = frozenset()
    reads_any: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, base: P, evidence: Evidence, run: Run, /) -> O:
        """Do it. Neither ``base`` nor ``evidence`` is changed."""

    @classmethod
    def gives_on(cls, rung: type[Policy]) -> type[Policy] | type[Evidence] | type[Measures]:
        """What it gives when the base stands on ``rung``; a wrapper keeps more of a better base."""
        return cls.card.gives

    @classmethod
    def traits(cls) -> Mapping[str, str]:
        """What tells it from its family's other members, for the family's table: a few words a column."""
        return {}

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        faults = field_faults(type(self), given, "")
        if faults:
            raise InputError(*faults)
        for name, value in coerce(type(self), given).items():  # "0.1" is 0.1, as from a recipe
            object.__setattr__(self, name, value)


M = TypeVar("M", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def method(*, paper: str, dial: str, neutral: Mapping[str, object]) -> Callable[[M], M]:
    """Make a class a method: a frozen dataclass with a card written from its path and signature.

    Args:
        paper: ``arXiv:…``, a DOI or a citation.
        dial: the field whose sweep draws the method's curve.
        neutral: settings at which the outcome equals the base (a law that is tested).
    """

    def decorate(cls: M) -> M:
        made: Any = dataclass(frozen=True, kw_only=True)(cls)
        hints = typing.get_type_hints(made.__call__)
        unknown = ({dial} | set(neutral)) - {f.name for f in dataclasses.fields(made)}
        if unknown:
            raise TypeError(f"{made.__qualname__}: dial or neutral names no field: {sorted(unknown)}")
        module = made.__module__.split(".")
        made.card = Card(
            name="/".join(module[-2:]),
            summary=(made.__doc__ or "").strip().split("\n")[0],
            paper=paper,
            dial=dial,
            neutral=MappingProxyType(dict(neutral)),
            needs=hints["base"],
            gives=hints["return"],
            reads=made.reads,
            writes=made.writes,
            kind=made,
        )
        return cast(M, made)

    return decorate


def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls)]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))  # no setting means anything at NaN


def field_faults(cls: type, settings: Mapping[str, object], place: str) -> list[Fault]:
    """Every fault of ``settings`` as the fields of a dataclass: unknown names, wrong types, out of range."""
    known = {f.name: t for f, t in _fields(cls)}
    label = getattr(getattr(cls, "card", None), "name", cls.__name__)
    faults = []
    for name, value in settings.items():
        if name not in known:
            faults.append(Fault(place, f"{label} has no field {name!r}", did_you_mean(str(name), known)))
            continue
        try:
            _adapter(known[name]).validate_python(value)
        except ValidationError as error:
            reason = "; ".join(e["msg"].replace("Input should be", "should be") for e in error.errors())
            faults.append(Fault(place, f"{label}: {name} = {value!r}: {reason}"))
    return faults


def coerce(cls: type, settings: Mapping[str, object]) -> dict[str, Any]:
    """``settings`` with every value in its field's type (a YAML list becomes a tuple, ``1e-6`` a float)."""
    known = {f.name: t for f, t in _fields(cls)}
    return {name: _adapter(known[name]).validate_python(value) for name, value in settings.items()}


@cache
def names() -> tuple[str, ...]:
    """Every method there is, by path, in alphabetical order. Found, not listed."""
    import truing.methods as root

    found = []
    for family in pkgutil.iter_modules(root.__path__):
        if family.ispkg:
            package = importlib.import_module(f"truing.methods.{family.name}")
            members = (m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
            found += [f"{family.name}/{member}" for member in members]
    return tuple(sorted(found))


@cache
def find(name: str) -> type[Method[Any, Any]]:
    """The class of a method.

    Raises:
        InputError: there is none of that name.
    """
    if name not in names():
        raise bad("", f"there is no method {name!r}", did_you_mean(name, names()))
    module = importlib.import_module("truing.methods." + name.replace("/", "."))
    for value in vars(module).values():
        if isinstance(value, type) and getattr(value.__dict__.get("card"), "name", None) == name:
            return value
    raise TypeError(f"{module.__name__} holds no class decorated with @method")


def build(name: str, /, **settings: object) -> Method[Any, Any]:
    """A method by name with its settings.

    Example:
        >>> build("preference/dpo", beta=0.05).beta
        0.05

    Raises:
        InputError: no such method, no such field, or a value out of range; every fault at once.
    """
    cls = find(name)
    faults = field_faults(cls, settings, "")
    if faults:
        raise InputError(*faults)
    return cls(**coerce(cls, settings))
