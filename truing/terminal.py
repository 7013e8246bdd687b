"""What the verbs print: the catalogue of methods, one method, a data ledger, faults."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from truing.core.errors import Fault, bad, did_you_mean
from truing.core.evidence import Evidence
from truing.core.method import Card, Method, find, names

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from truing.data.contract import Ledger

PIPE_WIDTH = 160
"""Columns where the output is not a terminal and COLUMNS is not set."""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n     +.*)*)", re.MULTILINE)
"""One entry of an ``Attributes:`` or ``Args:`` section: names, and text with its continuation lines."""
SIZES = {"min_length": "at least {} long", "max_length": "at most {} long"}


def show_methods(name: str | None) -> None:
    """Print the catalogue, one family or one method.

    Raises:
        InputError: there is no method or family of that name.
    """
    if name in names():
        return _show_method(find(str(name)))
    families = sorted({known.split("/")[0] for known in names()})
    if name is not None and name.rstrip("/") not in families:
        raise bad("", f"there is no method or family {name!r}", did_you_mean(name, {*names(), *families}))
    if name is not None:
        return _show_family([find(known) for known in names() if known.startswith(f"{name.rstrip('/')}/")])
    table = _table("method", "needs", "reads", "gives", "dial", "paper")
    for family in families:
        for known in (known for known in names() if known.startswith(f"{family}/")):
            card = find(known).card
            table.add_row(known, card.needs.__name__, _reads(card), _gives(card), _dial(card), card.paper)
        table.add_section()
    _console().print(table)
    return None


def _show_family(kinds: Sequence[type[Method[Any, Any]]]) -> None:
    """The map of a family: what its members share in one line, what tells them apart in a table."""
    cards = [kind.card for kind in kinds]
    columns = list(dict.fromkeys(name for kind in kinds for name in kind.traits()))
    facts: dict[str, list[str]] = {
        "needs": [card.needs.__name__ for card in cards],
        "reads": [_reads(card) for card in cards],
        "gives": [_gives(card) for card in cards],
        **{name: [kind.traits().get(name, "") for kind in kinds] for name in columns},
        "dial": [_dial(card) for card in cards],
        "paper": [card.paper for card in cards],
    }
    shared = {name: cells[0] for name, cells in facts.items() if len(cells) > 1 and set(cells) == {cells[0]}}
    told = [f"{name} {cell}" for name, cell in shared.items() if cell]
    table = _table("method", *(name for name in facts if name not in shared), "what it does")
    for i, kind in enumerate(kinds):
        cells = [cells[i] for name, cells in facts.items() if name not in shared]
        table.add_row(kind.card.name, *cells, kind.card.summary)
    console = _console()
    if told:
        console.print(f"{cards[0].family}: every member {', '.join(told)}.")
    console.print(table)


def _show_method(kind: type[Method[Any, Any]]) -> None:
    card, console = kind.card, _console()
    console.print(f"{card.name}: {inspect.cleandoc(kind.__doc__ or '')}\n")
    facts = _table(header=False)
    facts.add_row("paper", card.paper)
    facts.add_row("needs", f"{card.needs.__name__} policy")
    facts.add_row("reads", _reads(card) or "no evidence")
    facts.add_row("gives", _gives(card))
    facts.add_row("dial", _dial(card))
    facts.add_row("changes nothing at", ", ".join(f"{k} = {v}" for k, v in card.neutral.items()))
    console.print(facts)
    table, meanings = _table("field", "type", "default", "meaning"), field_meanings(kind)
    table.columns[0].no_wrap = True
    for field in dataclasses.fields(kind):
        hint = card.fields[field.name][0]
        kind_of = " ".join(filter(None, (type_words(hint), range_words(hint))))
        table.add_row(field.name, kind_of, _default(field), meanings.get(field.name, ""))
    console.print(table)
    console.print(f"Use it: truing run {card.name} --model MODEL{_data(card)} --out DIR --{card.dial} VALUE")


def show_ledger(name: str, ledger: Ledger) -> None:
    """Print what became of the rows of one source."""
    table = _table("verdict", "reason", "rows", "which", title=f"{name}: {ledger.read} rows of {ledger.source}")
    for row in ledger.table():
        table.add_row(*row)
    _console().print(table)


def show_faults(faults: Sequence[Fault]) -> None:
    """Every fault on standard error, numbered where there are several."""
    if len(faults) > 1:
        print(f"{len(faults)} faults:", file=sys.stderr)
    for number, fault in enumerate(faults, 1):
        print(f"{number:>3}. {fault}" if len(faults) > 1 else str(fault), file=sys.stderr)


def type_words(hint: Any) -> str:
    """A field's type as a person writes it.

    Example:
        >>> type_words(float), type_words(tuple[str, ...]), type_words(int | None)
        ('float', 'list of str', 'int or null')
        >>> type_words(typing.Literal["cosine", "linear"])
        'cosine | linear'
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_words(inner[0])
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(type_words, inner))
    if inner and origin in (tuple, list, set, frozenset):
        return f"list of {type_words(inner[0])}"
    if hint is type(None):
        return "null"
    return str(getattr(hint, "__name__", hint))


def range_words(hint: Any) -> str:
    """The limits of a field; empty where there are none.

    Example:
        >>> from annotated_types import Ge, Le
        >>> range_words(typing.Annotated[float, Ge(0), Le(1)])
        '≥ 0, ≤ 1'
    """
    if typing.get_origin(hint) is not typing.Annotated:
        return ", ".join(filter(None, map(range_words, typing.get_args(hint))))
    inner, *limits = typing.get_args(hint)
    found = [range_words(inner)]
    for limit in limits:
        for name, value in ((name, getattr(limit, name, None)) for name in (*SIGNS, *SIZES)):
            if value is not None:
                found.append(f"{SIGNS[name]} {value}" if name in SIGNS else SIZES[name].format(value))
    return ", ".join(filter(None, found))


def field_meanings(kind: type) -> dict[str, str]:
    """What a method's docstrings say of its fields: its own, its bases' and those of the kernels beside it."""
    kernels = [value for value in vars(sys.modules[kind.__module__]).values() if inspect.isfunction(value)]
    found: dict[str, str] = {}
    for source in (*kind.__mro__, *(kernel for kernel in kernels if kernel.__module__ == kind.__module__)):
        for names_of, text in ENTRY.findall(inspect.cleandoc(source.__doc__ or "")):
            for name in names_of.split(", "):
                found.setdefault(name, " ".join(text.replace("``", "").split()))
    return found


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    if field.default is dataclasses.MISSING:
        return "must be given"
    return "null" if field.default is None else str(field.default)


def _reads(card: Card) -> str:
    either = " or ".join(sorted(find(card.name).reads_any))
    return ", ".join([*sorted(card.reads), *filter(None, [either])])


def _gives(card: Card) -> str:
    return ", ".join(sorted(card.writes)) if issubclass(card.gives, Evidence) else card.gives.__name__


def _dial(card: Card) -> str:
    default = card.defaults[card.dial]
    return card.dial if default is dataclasses.MISSING else f"{card.dial} = {default}"


def _data(card: Card) -> str:
    words = {"donors": " --donor NAME=MODEL", "judge": " --judge JUDGE"}
    return "".join(words.get(name, f" --data {name}=FILE") for name in sorted(card.reads))


def _table(*columns: str, header: bool = True, title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD, show_header=header, title=title, title_justify="left", pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _console() -> Console:
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # the command line's to tell, as for everything else that prints

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return Piped(width=width, markup=False, highlight=False, emoji=False)
