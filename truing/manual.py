"""What ``--help`` says, and the arguments of every verb."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from truing.arguments import listed

ABOUT = """\
Align a language model by any method, on your own model and data, and measure what it gained and what it cost.

  truing methods                                what there is
  truing methods preference/dpo                 one method: its fields, their ranges and defaults
  truing check recipe.yaml                      every fault at once, before a model loads
  truing run recipe.yaml --out DIR              a comparison, to its report
  truing run preference/dpo --model smollm2 --data pairs.jsonl --out DIR
  truing evaluate MODEL --probes length,perplexity --out DIR
  truing report DIR                             the page again, from saved measures
"""
VERBS: Mapping[str, tuple[str, str]] = {
    "methods": (
        "list the methods, or explain one",
        """\
examples:
  truing methods                  every method, by family
  truing methods merge            one family
  truing methods preference/dpo   what it needs, and every field with its type, range and default
""",
    ),
    "check": (
        "find every fault of a recipe and its data before a model loads",
        """\
Types the whole chain of steps, and prints what was kept, repaired, shortened and refused of every data source, with
the reason and the rows. Rows are measured in tokens with --lengths, which takes seconds, and by every run.
Exit code 2 if anything is wrong.

example:
  truing check recipes/*.yaml
""",
    ),
    "run": (
        "run a recipe, or one method, to its report",
        """\
examples:
  truing run recipes/quickstart.yaml --out runs/quickstart
  truing run preference/dpo --model smollm2 --data pairs.jsonl --out runs/dpo --beta 0.05
  truing run preference/dpo --model smollm2 --data pairs.jsonl --out runs/sweep --beta '[0.05, 0.1, 0.3]'
  truing run merge/linear --model smollm2 --donor tuned=path/to/model --out runs/merged
  truing run merge.yml --out merged                       mergekit's YAML, unchanged (docs/merging.md)
  truing run rerank/best_of_n --model smollm2 --data prompts.jsonl --judge constraints --set n=8 --out runs/best

Every field of a method is an option: --beta 0.05 and --set beta=0.05 say the same; 'truing methods NAME' lists them.
A list of numbers sweeps the field, several lists their grid. --data goes to what the method reads (pairs, demos,
prompts ...); where it reads several kinds, say which: --data demos=FILE. A run that was stopped goes on with --resume.

A merge's file (merge_method: ...) takes --seed, --max_shard_size 2GB, --threads N and --allow_nan.

Many devices: 'accelerate launch -m truing run ...' trains in several processes, and --ray ADDRESS makes the arms of a
comparison on a Ray cluster (docs/scaling.md).
""",
    ),
    "evaluate": (
        "measure a model without changing it",
        """\
examples:
  truing evaluate path/to/model --probes length,reward --data prompts.jsonl --judge constraints --out runs/measured
  truing evaluate path/to/model --probes preference --data pairs=held-out.jsonl --out runs/measured
  truing evaluate path/to/model --probes refusal,multiple_choice --data refusal=prompts.jsonl --out runs/measured

--data KIND=FILE is what probes measure on: prompts (also without a kind), pairs, facts, targets, refusal, questions.
""",
    ),
    "report": (
        "write report.html and report.md again from saved measures",
        """\
example:
  truing report runs/dpo runs/merged --out runs/both    two runs on one page
""",
    ),
}


def add_arguments(verbs: Mapping[str, argparse.ArgumentParser]) -> None:
    """Give every verb's parser its arguments."""
    verbs["methods"].add_argument("name", nargs="?", metavar="NAME", help="a method or a family; all where left out")
    verbs["check"].add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="a recipe's YAML file")
    verbs["check"].add_argument("--lengths", action="store_true", help="count tokens too, with the model's tokenizer")
    run = verbs["run"]
    run.add_argument("target", metavar="RECIPE|METHOD", help="a recipe's file, or a method's name")
    run.add_argument("--model", "--model_name_or_path", metavar="M", help="a folder, a Hub name, or smollm2")
    _shared(run)
    run.add_argument("--donor", action="append", default=[], metavar="NAME=MODEL", help="a donor model; repeatable")
    run.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field; repeatable")
    run.add_argument("--resume", action="store_true", help="go on with a run that was stopped, or keep a finished one")
    run.add_argument("--ray", metavar="ADDRESS", help="make the arms on a Ray cluster; 'local' starts one here")
    verbs["evaluate"].add_argument("target", metavar="MODEL", help="a folder, a Hub name, or smollm2")
    _shared(verbs["evaluate"])
    verbs["report"].add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder that a run wrote")
    verbs["report"].add_argument(
        "--out", "--output_dir", type=Path, metavar="DIR", help="where to write; the first folder where left out"
    )


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        "--dataset_name",
        action="append",
        default=[],
        metavar="[KIND=]D",
        help="a file, a folder or a Hub name",
    )
    parser.add_argument("--judge", metavar="J", help="constraints, or python:module:function")
    parser.add_argument("--probes", type=listed, metavar="A,B", help="what to measure, with commas between")
    parser.add_argument("--seed", type=int, metavar="N", help="decides every random choice")
    parser.add_argument("--out", "--output_dir", type=Path, metavar="DIR", help="the folder to write to")
