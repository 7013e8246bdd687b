"""A recipe is a value: read from YAML, checked as a whole chain, expanded into the points of its curves."""

from __future__ import annotations

import itertools
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from truing.core.chain import chain_faults
from truing.core.errors import Fault, bad, did_you_mean
from truing.core.evidence import FIELDS
from truing.core.method import Method, coerce, field_faults, find, names
from truing.core.policy import Sampling

SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
NAME = re.compile(r"\w[\w .+=-]*(/\w[\w .+=-]*)*")
"""An arm's name, which is also its folder's."""
KEYS = (
    "name", "model", "adapter", "load_in_4bit", "seed",
    "data", "judge", "steps", "arms", "probes", "evaluate", "sampling",
)  # fmt: skip
PROBES = ("win_rate", "reward", "preference", "kl", "length", "perplexity", "cost")
EVALUATE = {
    "prompts": "the data's prompts", "pairs": "the data's pairs", "facts": None, "targets": None, "refusal": None,
    "questions": "general", "draws": 4, "limit": None,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One method with its settings, and where the recipe says so."""

    method: str
    settings: Mapping[str, Any]
    place: str

    def build(self) -> Method[Any, Any]:
        """The method itself."""
        cls = find(self.method)
        return cls(**coerce(cls, self.settings))


@dataclass(frozen=True)
class Point:
    """One arm as it is run: a point of a curve.

    Attributes:
        name: the arm's name, with the values that are swept: ``dpo/learning_rate=1e-06/beta=0.1``.
        arm: the arm's name in the recipe.
        curve: the same with the values of all swept fields but the dial.
        dial: the swept field and this point's value.
        donors: name -> a model, or ``arms.NAME`` for another arm's result.
    """

    name: str
    arm: str
    curve: str
    steps: tuple[Step, ...]
    dial: tuple[str, float] | None = None
    donors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A comparison: one base, shared steps, arms, probes.

    Attributes:
        faults: everything that is wrong with it; a recipe with faults is never run.
        raw: as it was written, for ``run.json``.
    """

    name: str
    model: str
    data: Mapping[str, Any]
    shared: tuple[Step, ...]
    points: tuple[Point, ...]
    probes: tuple[str, ...]
    sampling: Sampling
    evaluate: Mapping[str, Any]
    judge: Any = None
    adapter: str | None = None
    load_in_4bit: bool = False
    seed: int = 0
    raw: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file. Faults of its content are gathered in the recipe; :func:`truing.check` raises them all.

    Raises:
        InputError: the file cannot be read, is not YAML, or is not a mapping.
    """
    import yaml

    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise bad(str(path), f"cannot be read: {error.strerror}", "Give the path of a recipe.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad(str(path), f"is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise bad(str(path), "is not a mapping", "Begin with 'model: smollm2' and 'arms:'.")
    return parse(raw, name=path.stem)


def recipe_for_method(
    name: str,
    settings: Mapping[str, object],
    *,
    model: str,
    data: Mapping[str, object],
    donors: Mapping[str, str],
    judge: str | None,
    probes: Sequence[str] | None,
    seed: int,
) -> Recipe:
    """The recipe of one method as the only arm."""
    arm: dict[str, Any] = {"steps": [{name: dict(settings)}]}
    if donors:
        arm["donors"] = dict(donors)
    raw: dict[str, Any] = {"model": model, "seed": seed, "data": dict(data), "arms": {name.split("/")[-1]: arm}}
    if judge is not None:
        raw["judge"] = judge
    if probes is not None:
        raw["probes"] = list(probes)
    return parse(raw, name=name.split("/")[-1])


def parse(raw: Mapping[str, Any], *, name: str) -> Recipe:
    """A recipe from plain values, with every fault found on the way."""
    raw = numbers(dict(raw))
    faults = [
        Fault("recipe", f"there is no key {key!r}", did_you_mean(str(key), KEYS)) for key in raw if key not in KEYS
    ]
    reader = _Reader(raw, faults)
    model = reader.get("model", str, "")
    if not model:
        faults.append(Fault("model", "is missing", "Name a folder, a Hub model or 'smollm2'."))
    data = reader.get("data", dict, {})
    known = FIELDS - {"judge"}
    faults += [
        Fault(f"data.{key}", "is no kind of evidence", did_you_mean(str(key), known))
        for key in data
        if key not in known
    ]
    evaluate = reader.get("evaluate", dict, {})
    faults += _evaluate_faults(evaluate)
    given = reader.get("sampling", dict, {})
    wrong = field_faults(Sampling, given, "sampling")
    faults += wrong
    probes = reader.get("probes", list, list(PROBES))
    shared = tuple(reader.step(value, f"steps[{i}]") for i, value in enumerate(reader.get("steps", list, [])))
    points = reader.points(reader.get("arms", dict, {}))
    if not points and shared:
        name_of_last = shared[-1].method.split("/")[-1]
        points, shared = [Point(name_of_last, name_of_last, name_of_last, shared)], ()
    recipe = Recipe(
        name=str(raw.get("name", name)),
        model=model,
        data=data,
        shared=shared,
        points=tuple(points),
        probes=tuple(map(str, probes)),
        sampling=Sampling(**({} if wrong else coerce(Sampling, given))),
        evaluate={**EVALUATE, "prompts": None, "pairs": None, **evaluate},
        judge=raw.get("judge"),
        adapter=reader.get("adapter", str, "") or None,
        load_in_4bit=reader.get("load_in_4bit", bool, False),
        seed=reader.get("seed", int, 0),
        raw=dict(raw),
    )
    return Recipe(**{**vars(recipe), "faults": (*faults, *chain_faults(recipe))})


def _evaluate_faults(evaluate: Mapping[Any, Any]) -> list[Fault]:
    """What is wrong with ``evaluate``; a limit may be left open, a number of draws may not."""
    odd = [key for key in evaluate if key not in EVALUATE]
    faults = [Fault(f"evaluate.{key}", "is not known", did_you_mean(str(key), EVALUATE)) for key in odd]
    for key, what in (("draws", "replies a prompt"), ("limit", "prompts")):
        value = evaluate.get(key, EVALUATE[key])
        if value is None and EVALUATE[key] is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            faults.append(Fault(f"evaluate.{key}", f"is {value!r}", f"Give a number of {what}, 1 or more."))
    return faults


@dataclass
class _Reader:
    """Reads plain values and notes what is wrong with them."""

    raw: Mapping[str, Any]
    faults: list[Fault]

    def get(self, key: str, kind: type, default: Any) -> Any:
        value = self.raw.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            names = {dict: "a mapping", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}
            self.faults.append(Fault(key, f"is {value!r}", f"Give {names[kind]}."))
            return default
        return value

    def step(self, value: object, place: str) -> Step:
        """A step from ``name`` or ``{name: {field: value}}``."""
        if isinstance(value, str):
            return Step(value, {}, place)
        if isinstance(value, dict) and len(value) == 1:
            name, settings = next(iter(value.items()))
            if settings is None or isinstance(settings, dict):
                return Step(str(name), settings or {}, place)
        self.faults.append(Fault(place, f"is {value!r}", "Write 'family/method' or 'family/method: {field: value}'."))
        return Step("", {}, place)

    def points(self, arms: Mapping[str, Any]) -> list[Point]:
        """Every arm, expanded along the fields that it gives as lists."""
        found: list[Point] = []
        for name, arm in arms.items():
            place = f"arms.{name}"
            if not NAME.fullmatch(str(name)):
                mend = "Begin with a letter or a digit; go on with these and any of '_', '-', '.', '+', '=', ' '."
                self.faults.append(Fault(place, "cannot be the name of a folder", mend))
            steps, donors = (arm.get("steps"), arm.get("donors") or {}) if isinstance(arm, dict) else (arm, {})
            steps = steps if isinstance(steps, list) else [steps]
            if not steps:
                self.faults.append(Fault(place, "has no steps", "Give at least one, e.g. 'preference/dpo'."))
            chain = [self.step(value, f"{place}[{i}]") for i, value in enumerate(steps)]
            keys = ("steps", "donors")
            odd = [key for key in arm if key not in keys] if isinstance(arm, dict) else []
            self.faults += [Fault(place, f"has no key {key!r}", did_you_mean(str(key), keys)) for key in odd]
            if not isinstance(donors, dict):
                self.faults.append(Fault(f"{place}.donors", f"is {donors!r}", "Write '{NAME: MODEL or arms.ARM}'."))
                donors = {}
            found += self.expand(str(name), place, chain, {str(k): str(v) for k, v in donors.items()})
        return found

    def expand(self, name: str, place: str, chain: Sequence[Step], donors: Mapping[str, str]) -> list[Point]:
        """A point for every combination of its lists' values; curves run along the method's dial, or the last list."""
        swept = [
            (i, key)
            for i, step in enumerate(chain)
            for key, value in step.settings.items()
            if isinstance(value, list) and not _takes_lists(step.method, key)
        ]
        if not swept:
            return [Point(name, name, name, tuple(chain), None, donors)]
        swept.sort(key=lambda axis: _is_dial(chain[axis[0]].method, axis[1]))
        axes = [self.axis(f"{place}[{at}]", key, chain[at].settings[key]) for at, key in swept]
        out = []
        for values in itertools.product(*axes):
            steps = list(chain)
            for (at, key), value in zip(swept, values, strict=True):
                steps[at] = replace(steps[at], settings={**steps[at].settings, key: value})
            labels = [f"{key}={value:g}" for (_, key), value in zip(swept, values, strict=True)]
            curve, dial = "/".join([name, *labels[:-1]]), (swept[-1][1], float(values[-1]))
            out.append(Point(f"{curve}/{labels[-1]}", name, curve, tuple(steps), dial, donors))
        return out

    def axis(self, place: str, key: str, values: Sequence[Any]) -> list[Any]:
        """The numbers that a field is swept over."""
        odd = [value for value in values if isinstance(value, bool) or not isinstance(value, int | float)]
        self.faults += [Fault(place, f"{key} sweeps {value!r}", "Sweep numbers.") for value in odd]
        if not values:
            self.faults.append(Fault(place, f"{key} sweeps nothing", "Give the values, or one value."))
        return [value for value in values if not any(value is other for other in odd)]


def _is_dial(method: str, key: str) -> bool:
    return method in names() and find(method).card.dial == key


def _takes_lists(method: str, key: str) -> bool:
    """Whether a field's own type is a list, so that a list is a value and no sweep."""
    if method not in names() or key not in (fields := find(method).card.fields):
        return False
    kind = fields[key][0]
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    return typing.get_origin(kind) in (list, tuple, Sequence) or kind in (list, tuple)


def numbers(value: Any) -> Any:
    """``1e-6`` as a number: YAML 1.1 wants ``1.0e-6`` and reads the other as text."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value


__all__ = ["Point", "Recipe", "Step", "load_recipe", "numbers", "parse", "recipe_for_method"]
