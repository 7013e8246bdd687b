"""Where results go: a JSON with everything, and a section of a Markdown page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import Common
from harness.machine import sentence
from harness.running import ROOT
from truing.core.files import write_text

PRIVATE = ("--out", "--results", "--venv", "--pip-flags", "--machine-note")
"""Options that say nothing about what was measured, or are told elsewhere."""
Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def section(name: str, text: str, page: str) -> str:
    """The page with this benchmark's section put in place of an older one, or at the end.

    Example:
        >>> page = section("a", "one", "# Results\\n")
        >>> section("a", "two", page) == section("a", "two", "# Results\\n")
        True
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text.strip()}\n{end}"
    old = re.compile(re.escape(begin) + r".*?" + re.escape(end), re.DOTALL)
    return old.sub(lambda _: block, page) if old.search(page) else f"{page.rstrip()}\n\n{block}\n"


def settle(name: str, common: Common, *, work: dict[str, Any], runs: Runs, tables: dict[str, str]) -> None:
    """Print the tables, write the JSON and, where asked, the section of the results page.

    Args:
        work: what was done: model, data, sizes.
        runs: everything that the sides told.
        tables: heading -> Markdown.
    """
    done = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "command": command(name, sys.argv[1:]),
        "machine": common.machine,
        "work": work,
        "tables": tables,
        "runs": runs,
    }
    write_text(common.out, json.dumps(done, indent=2, ensure_ascii=False) + "\n")
    facts = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in work.items())
    stack = ", ".join(f"{package} {version}" for package, version in sorted(_versions(runs).items()))
    head = f"Measured {done['date']} at `{done['commit']}` on {sentence(common.machine)}. {stack}.\n\n{facts}."
    body = "\n\n".join(f"**{title}**\n\n{table}" if title else table for title, table in tables.items())
    print(f"{head}\n\n{body}\n\nEverything is in {common.out}.")
    if common.results is not None:
        page = common.results.read_text(encoding="utf-8") if common.results.exists() else "# Results\n"
        text = f"## {name}\n\n{head}\n\n    {done['command']}\n\n{body}"
        write_text(common.results, section(name, text, page))


def command(name: str, words: Sequence[str]) -> str:
    """What was typed, to be typed again elsewhere: files by their names, without where results went.

    Example:
        >>> command("scaling", ["--data", "/data/hh.jsonl", "--results", "R.md", "--short"])
        'python benchmarks/scaling.py --data hh.jsonl --short'
    """
    kept: list[str] = []
    for word in words:
        name_only = Path(word).name if word.startswith(("/", "~", ".")) else word
        before, _, value = name_only.partition("=")
        kept.append(f"{before}={Path(value).name}" if value.startswith(("/", "~", ".")) else name_only)
    shown, skip = [], False
    for word in kept:
        here = word.partition("=")[0]
        if skip:
            skip = False
        elif here in PRIVATE:
            skip = here == word
        else:
            shown.append(shlex.quote(word))
    return " ".join(["python", f"benchmarks/{name}.py", *shown])


def _versions(runs: Runs) -> dict[str, str]:
    """What the sides ran on; one version each, since they share their constraints."""
    return {name: version for told in runs.values() for run in told for name, version in run["versions"].items()}


def _commit() -> str:
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
