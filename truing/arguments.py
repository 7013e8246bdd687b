"""From words on a command line to values: a method's fields as options, data, donors, lists.

Every function returns what it understood and the faults it found, so that a verb can tell all of them at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from truing.core.errors import Fault, did_you_mean
from truing.core.evidence import Evidence
from truing.core.recipe import EVALUATE, numbers

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")
DATA_FIELDS = tuple(f.name for f in fields(Evidence) if f.name not in ("donors", "judge"))
MEASURED_ON = tuple(name for name in EVALUATE if name not in ("draws", "limit"))
"""What ``truing evaluate`` reads, under the names that a recipe's ``evaluate`` has for it."""


def flags(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """The long options of a parser without their dashes, and whether each takes a value."""
    options = parser._option_string_actions.items()  # argparse offers no public way to list them
    return {name[2:]: action.nargs != 0 for name, action in options if name.startswith("--")}


def split(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[tuple[str, str | bool]]]:
    """Part the options that a parser knows from all others, which are fields of a method.

    ``--learning-rate`` is read as ``--learning_rate``. An unknown option takes the next word as its value, unless that
    is an option too: then it is a switch, and its value is True.

    Returns: the words for the parser, and ``(field, value)`` in the order given.
    """
    known, at = flags(parser), 0
    ours: list[str] = []
    others: list[tuple[str, str | bool]] = []
    while at < len(words):
        word, at = words[at], at + 1
        follows = at < len(words) and not words[at].startswith("--")
        if word == "--":
            return ours + list(words[at - 1 :]), others
        if not word.startswith("--"):
            ours.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in known:
            ours.append(f"--{name}{equals}{value}")
            if known[name] and not equals and follows:
                ours.append(words[at])
                at += 1
        elif equals or not follows:
            others.append((name, value if equals else True))
        else:
            others.append((name, words[at]))
            at += 1
    return ours, others


def scalar(text: str) -> object:
    """A value as YAML reads it, and ``1e-6`` as the number that everybody means by it.

    Example:
        >>> scalar("0.05"), scalar("1e-6"), scalar("true"), scalar("cosine"), scalar("[1, 2]")
        (0.05, 1e-06, True, 'cosine', [1, 2])
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return numbers(value) if text.strip() else text


def settings(
    options: Sequence[tuple[str, str | bool]], assignments: Sequence[str]
) -> tuple[dict[str, object], list[Fault]]:
    """A method's fields from ``--field value`` and ``--set field=value``."""
    found: dict[str, object] = {}
    faults = []
    pairs: list[tuple[str, str, str | bool]] = [(f"--{name}", name, value) for name, value in options]
    for text in assignments:
        name, equals, told = text.partition("=")
        if not equals or not name.strip():
            faults.append(Fault("--set", f"{text!r} sets nothing", "Write --set field=value."))
        else:
            pairs.append((f"--set {text}", name.strip(), told))
    for place, name, value in pairs:
        if name in found:
            faults.append(Fault(place, f"{name!r} is given twice", "Give it once."))
        found[name] = scalar(value) if isinstance(value, str) else value
    return found, faults


def evidence(
    entries: Sequence[str], reads: Collection[str], reader: str, kinds: Sequence[str] = DATA_FIELDS
) -> tuple[dict[str, object], list[Fault]]:
    """Where each ``--data`` goes: to the field it names, or to the one field that a method reads.

    Args:
        entries: ``SOURCE`` or ``field=SOURCE``.
        reads: fields of Evidence; where none of them is data, a bare source is the prompts.
        reader: what reads it, for the messages.
        kinds: what a source may be said to be.
    """
    found: dict[str, object] = {}
    faults = []
    wanted = [name for name in kinds if name in reads] or ["prompts"]
    for entry in entries:
        name, equals, source = entry.partition("=")
        if not equals or (name not in kinds and (not name.isidentifier() or Path(entry).exists())):
            name, source = wanted[0], entry
            if len(wanted) > 1:
                mend = f"Say which, e.g. --data {wanted[0]}={entry}."
                faults.append(Fault("--data", f"{reader} reads {' and '.join(wanted)}", mend))
                continue
        if name not in kinds:
            faults.append(Fault("--data", f"{name!r} is no kind of evidence", did_you_mean(name, kinds)))
        elif name in found:
            faults.append(Fault("--data", f"{name} is given twice", "Give one source for each kind of evidence."))
        found[name] = source
    return found, faults


def donors(entries: Sequence[str]) -> tuple[dict[str, str], list[Fault]]:
    """Donor models from ``name=model``."""
    found: dict[str, str] = {}
    faults = []
    for entry in entries:
        name, equals, model = entry.partition("=")
        if not (equals and name and model):
            faults.append(Fault("--donor", f"{entry!r} has no name", "Write --donor NAME=MODEL."))
        elif name in found:
            faults.append(Fault("--donor", f"{name!r} is given twice", "Give every donor a name of its own."))
        else:
            found[name] = model
    return found, faults


def listed(text: str | None) -> tuple[str, ...] | None:
    """``a,b`` as ``('a', 'b')``; None stays None."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def is_recipe(target: str) -> bool:
    """Whether a target of ``run`` is a recipe's path rather than a method's name."""
    return target.endswith(RECIPE_SUFFIXES) or Path(target).is_file()


def is_merge(target: str) -> bool:
    """Whether a file is a merge in mergekit's form rather than a recipe: it has the key ``merge_method``."""
    import yaml

    if not (target.endswith(RECIPE_SUFFIXES) and Path(target).is_file()):
        return False
    try:
        found = yaml.safe_load(Path(target).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(found, dict) and "merge_method" in found


def not_for_a_merge(given: Mapping[str, object]) -> list[Fault]:
    """Faults of options that a merge's file has no use for."""
    mend = "The file names its models; what is made is measured with 'truing evaluate'."
    return [Fault(f"--{name}", "is not for a merge", mend) for name in given if given[name]]


def not_for_a_recipe(given: Mapping[str, object]) -> list[Fault]:
    """Faults of options that only a single method takes."""
    mend = "A recipe says this itself: change it there."
    return [Fault(f"--{name}", "is for a single method, and this is a recipe", mend) for name in given if given[name]]


def as_options(fault: Fault) -> Fault:
    """A fault of a recipe that the command line made, told in the words of the command line."""
    mend = re.sub(r"'data\.(\w+)'", r"--data \1=FILE", fault.mend)
    mend = mend.replace("'judge:'", "--judge constraints").replace("Give the arm 'donors:'", "Add --donor NAME=MODEL")
    place = "" if fault.place.startswith("arms.") else fault.place if fault.place != "model" else "--model"
    return Fault(place, fault.fact, mend)
