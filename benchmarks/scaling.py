"""From a thousand pairs to a hundred thousand: what a row, a token and a list cost, and whether it stays flat.

    python benchmarks/scaling.py --rows 1000,10000,100000

Reading, checking and tokenising are done for every row; the reference pass for the first ``--sample`` pairs; training
for the first ``--steps`` steps, shuffled over all rows. The list is arranged so that these take the same pairs at every
length: what differs is what the length costs. The pairs are those of ``--data`` again and again, each told from the
others by its number, or made-up ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.arguments import common, pair_options, parser, start
from harness.figures import flatness, median, table
from harness.pairs import MADE_UP, made_up, measurer, model_folder, visited
from harness.record import settle
from harness.running import Side, alternate
from harness.trl import job, values

from truing.core.evidence import Pair
from truing.core.policy import Message
from truing.data.load import load
from truing.data.views import encode
from truing.models.folder import load_tokenizer
from truing.models.template import Template

STAGES = ("reading", "tokens", "training")


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("scaling", (__doc__ or "").split("\n")[0], repeats=1)
    pair_options(made, pairs=2000, batch=4)
    made.add_argument("--rows", default="1000,10000,100000", help="lengths of the list (%(default)s)")
    made.add_argument("--steps", type=int, default=24, help="training steps measured (%(default)s)")
    made.add_argument("--sample", type=int, default=64, help="pairs of the reference pass (%(default)s)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of ours")
    words = made.parse_args()
    if words.short:
        words.rows, words.steps, words.sample = "100,1000", 3, 4
    return words


def lines(count: int, words: argparse.Namespace, model: str) -> Iterator[bytes]:
    """``count`` pairs as JSON lines, no two alike; that which training visits k-th is the k-th at every count."""
    turn = {row: k for k, row in enumerate(visited(count, words.seed))}
    numbers = [turn[row] for row in range(count)]
    if words.data == MADE_UP:
        yield from (json.dumps(made_up(number, words.seed)).encode() + b"\n" for number in numbers)
        return
    template = Template(load_tokenizer(model), model)
    longest = words.max_length - 16  # what the number adds still fits
    loaded = load("pairs", words.data, limit=words.pairs, max_length=longest, measurer=measurer(template))
    source: Sequence[Pair] = loaded.at_least().rows
    for number in numbers:
        yield encode(numbered(source[number % len(source)], number))


def numbered(pair: Pair, number: int) -> Pair:
    """The pair with its number said in the prompt's last turn."""
    last = pair.prompt[-1] if pair.prompt else Message("user", "")
    return replace(pair, prompt=(*pair.prompt[:-1], Message(last.role, f"{last.content} ({number})")))


def rows(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """A line for every length of the list."""
    made: list[dict[str, Any]] = []
    for name, told in runs.items():
        count = median(told, "rows")
        row: dict[str, Any] = {"pairs": name, "read and check, us/row": 1e6 * median(told, "load") / count}
        row["tokenise, us/row"] = 1e6 * median(told, "encode") / count
        row["reference, us/token"] = 1e6 * median(told, "reference_per_token")
        row["training, us/token"] = 1e6 * median(told, "training_per_token")
        for stage in STAGES:
            row[f"GB above the model, {stage}"] = median([run["above"] for run in told], stage) / 1e9
        row["peak GB"] = median(told, "peak_bytes") / 1e9
        made.append(row)
    return made


def apart(made: Sequence[Mapping[str, Any]]) -> str:
    """How far the lines are apart, figure by figure: the largest over the smallest, less 1."""
    names = [name for name in made[0] if name != "pairs"]
    far = {name: flatness([max(float(row[name]), 1e-9) for row in made]) for name in names}
    return table([{"figure": name, "largest over smallest, less 1": f"{100 * far[name]:.0f} %"} for name in names])


def main() -> None:
    """Write the lists, run each in a process of its own, settle."""
    words = options()
    shared = common(words)
    model = model_folder(words.model)
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as folder:
        sides = []
        for count in map(int, words.rows.split(",")):
            file = Path(folder) / f"{count}.jsonl"
            with file.open("wb") as out:
                out.writelines(lines(count, words, model))
            told = {
                "pairs": str(file),
                "rows": count,
                "steps": words.steps,
                "sample": words.sample,
                "settings": values(words.set),
            }
            sides.append(Side(str(count), "ours_scaling.py", {**job(words, model), **told}))
        runs = alternate(sides, repeats=shared.repeats, threads=shared.threads)
    facts = {"model": words.model, "data": Path(words.data).name, "pairs_a_step": words.batch, "steps": words.steps}
    settle("scaling", shared, work=facts, runs=runs, tables={"": table(rows(runs)), "Flat?": apart(rows(runs))})


if __name__ == "__main__":
    start(main)
