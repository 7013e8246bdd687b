"""Five verbs: methods, check, run, evaluate, report. A verb parses, makes one call and prints.

Exit codes: 0 done, 1 the run failed, 2 bad input (every fault is listed), 130 stopped by Ctrl-C, 141 where nobody
reads on, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from truing import __version__, arguments, manual, terminal
from truing.core.errors import Fault, InputError, RunError, bad, did_you_mean
from truing.core.lazy import own_process
from truing.core.method import find, names
from truing.engine.processes import main_process
from truing.machine import settle_kernels

if TYPE_CHECKING:
    from truing.core.recipe import Recipe


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are faults like any other."""

    def error(self, message: str) -> NoReturn:
        raise bad("", message, f"'{self.prog} --help' shows examples.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Args:
        argv: the words after ``truing``; those of the process where it is None.
    """
    settle_kernels()
    if argv is None:
        own_process()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("TRUING_DEBUG", "") not in ("", "0")
    try:
        with _terminable():
            code = _dispatch(words)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt as stop:
        code = 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
        if not main_process():
            return code
        again = shlex.join(["truing", *words, *([] if "--resume" in words else ["--resume"])])
        print(f"\nStopped.{f' To go on from here: {again}' if 'run' in words else ''}", file=sys.stderr)
        return code
    except BrokenPipeError:  # whoever read the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails
        return 128 + signal.SIGPIPE
    except Exception as error:  # whatever it is, a person gets a short message; the traceback is there for who asks
        if debug:
            traceback.print_exc()
        return _tell(error, debug)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends some seconds before it kills: taken like Ctrl-C."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that what is unfinished is removed and the reader told."""

    def stop(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(error: Exception, debug: bool) -> int:
    """Say what went wrong, and return the exit code."""
    if not main_process():  # of several that a launcher started, which meet the same error, one tells it
        return 2 if isinstance(error, InputError) else 1
    if isinstance(error, InputError):
        terminal.show_faults(error.faults)
        return 2
    if isinstance(error, RunError):
        print(f"The run failed: {error}", file=sys.stderr)
    else:
        hint = "" if debug else " --debug shows where."
        print(f"Failed unexpectedly: {type(error).__name__}: {error}.{hint}", file=sys.stderr)
    return 1


def _dispatch(words: list[str]) -> int:
    parser, verbs = _parsers()
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is None:
        parser.parse_args(words)
        parser.print_help()
        return 0
    if verb not in verbs:
        raise bad("", f"there is no verb {verb!r}", _verb_meant(verb, verbs))
    words, options = arguments.split(words, verbs[verb])
    if options and verb != "run" and not {"-h", "--help"} & set(words):
        known = arguments.flags(verbs[verb])
        faults = (
            Fault(f"--{name}", f"truing {verb} has no such option", did_you_mean(name, known)) for name, _ in options
        )
        raise InputError(*faults)
    args = parser.parse_args(words)
    args.options = options
    call: Callable[[argparse.Namespace], None] = args.call
    call(args)
    return 0


def _verb_meant(word: str, verbs: Iterable[str]) -> str:
    """``truing dpo`` and ``truing recipe.yaml`` are what fingers know from elsewhere."""
    if word.endswith(arguments.RECIPE_SUFFIXES):
        return f"Did you mean 'truing run {word}'?"
    alike = [name for name in names() if word in (name, name.rsplit("/", 1)[-1])]
    return f"Did you mean 'truing run {alike[0]}'?" if alike else did_you_mean(word, verbs)


def _methods(args: argparse.Namespace) -> None:
    terminal.show_methods(args.name)


def _check(args: argparse.Namespace) -> None:
    from truing.core.recipe import load_recipe
    from truing.pipeline import checking, merging

    faults: list[Fault] = []
    for path in args.recipes:
        try:
            if arguments.is_merge(str(path)):
                _told(path, merging.check(path))
                continue
            checked = checking.check(load_recipe(path), lengths=args.lengths)
        except InputError as error:
            faults += [replace(fault, place=_within(path, fault.place)) for fault in error.faults]
            continue
        _told(path, checked.lines)
        for name, ledger in checked.ledgers.items():
            terminal.show_ledger(name, ledger)
    if faults:
        raise InputError(*faults)


def _told(path: Path, lines: Iterable[str]) -> None:
    print(f"{path}: no faults.")
    for line in lines:
        print(f"  {line}")


def _within(path: Path, place: str) -> str:
    return place if place.startswith(str(path)) else f"{path}: {place}".removesuffix(": ")


def _run(args: argparse.Namespace) -> None:
    faults = [] if args.out else [Fault("--out", "is missing", "Add --out DIR, the folder to write to.")]
    settings, odd = arguments.settings(args.options, args.set)
    if arguments.is_merge(args.target):
        _merge(args, settings, [*faults, *odd])
        return
    read = _recipe if arguments.is_recipe(args.target) else _recipe_of_a_method
    try:
        recipe, more = read(args, settings)
    except InputError as error:
        raise InputError(*faults, *odd, *error.faults) from error
    if faults := [*faults, *odd, *more, *recipe.faults]:
        raise InputError(*faults)
    from truing.pipeline import study  # not before: a merge needs none of it

    page = study.run(recipe, args.out, resume=args.resume, ray=args.ray)
    if main_process():
        print(f"Report: {page}")


def _merge(args: argparse.Namespace, settings: dict[str, object], faults: list[Fault]) -> None:
    """A file of mergekit's, to a model's folder."""
    from truing.pipeline import merging

    given = {"model": args.model, "data": args.data, "donor": args.donor, "judge": args.judge, "probes": args.probes}
    faults += arguments.not_for_a_merge({**given, "ray": args.ray})
    options, odd = merging.Options.of({**settings, **({"seed": args.seed} if args.seed is not None else {})})
    if faults := [*faults, *odd]:
        raise InputError(*faults)
    print(f"Model: {merging.run(Path(args.target), args.out, resume=args.resume, options=options)}")


def _recipe(args: argparse.Namespace, settings: dict[str, object]) -> tuple[Recipe, list[Fault]]:
    """A recipe file, with what the command line says of its model, judge, probes and seed in place of its own."""
    from truing.core.recipe import load_recipe, parse

    recipe = load_recipe(Path(args.target))
    said = {"model": args.model, "judge": args.judge, "probes": args.probes and list(args.probes), "seed": args.seed}
    changes = {key: value for key, value in said.items() if value is not None}
    if changes:
        recipe = parse({**recipe.raw, **changes}, name=recipe.name)
    return recipe, arguments.not_for_a_recipe({"data": args.data, "donor": args.donor, **dict.fromkeys(settings, True)})


def _recipe_of_a_method(args: argparse.Namespace, settings: dict[str, object]) -> tuple[Recipe, list[Fault]]:
    from truing.core.recipe import recipe_for_method

    card = find(args.target).card
    known = {*card.fields, *arguments.flags(args.parser)}
    unknown = [name for name in settings if name not in card.fields]
    data, misread = arguments.evidence(args.data, card.reads, args.target)
    donors, nameless = arguments.donors(args.donor)
    recipe = recipe_for_method(
        args.target,
        {name: value for name, value in settings.items() if name not in unknown},
        model=args.model or "",
        data=data,
        donors=donors,
        judge=args.judge,
        probes=args.probes,
        seed=args.seed or 0,
    )
    faults = [Fault(f"--{name}", f"{card.name} has no field {name!r}", did_you_mean(name, known)) for name in unknown]
    recipe = replace(recipe, faults=tuple(arguments.as_options(fault) for fault in recipe.faults))
    return recipe, [*faults, *misread, *nameless]


def _evaluate(args: argparse.Namespace) -> None:
    from truing.pipeline import study

    faults = [] if args.out else [Fault("--out", "is missing", "Add --out DIR, the folder to write to.")]
    if not args.probes:
        faults.append(Fault("--probes", "names no probe", "Add --probes, e.g. --probes length,perplexity."))
    data, odd = arguments.evidence(args.data, ("prompts",), "truing evaluate", arguments.MEASURED_ON)
    if faults := [*faults, *odd]:
        raise InputError(*faults)
    page = study.evaluate(
        args.target, probes=args.probes, out=args.out, data=data or None, judge=args.judge, seed=args.seed or 0
    )
    print(f"Report: {page}")


def _report(args: argparse.Namespace) -> None:
    from truing import report

    for path in report.write(args.folders, args.out):
        print(f"Report: {path}")


def _parsers() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and that of every verb."""
    common = _Parser(add_help=False, allow_abbrev=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = _Parser(
        prog="truing", description=manual.ABOUT, allow_abbrev=False, parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"truing {__version__}")
    subparsers = parser.add_subparsers(title="verbs", dest="verb", metavar="VERB")
    calls: dict[str, Callable[[argparse.Namespace], None]] = {
        "methods": _methods, "check": _check, "run": _run, "evaluate": _evaluate, "report": _report,
    }  # fmt: skip
    verbs: dict[str, argparse.ArgumentParser] = {}
    for name, call in calls.items():
        summary, text = manual.VERBS[name]
        verbs[name] = subparsers.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=text, allow_abbrev=False,
            parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        verbs[name].set_defaults(call=call, parser=verbs[name])
    manual.add_arguments(verbs)
    return parser, verbs
