"""Sampling side by side with transformers' generate: 32 draws of one prompt, and 64 different prompts.

    python benchmarks/generate_vs_transformers.py --tokens 64

Both sides run in our own environment (transformers is a dependency of ours), draw from the whole distribution at
temperature 1, and count generated tokens only. By default no token ends a reply, so that every draw is ``--tokens``
long on both sides; with ``--stops`` replies end where the model ends them, and what is drawn after an end is not
counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.arguments import common, parser, start
from harness.figures import median, peak, spread, table
from harness.pairs import MADE_UP, made_up, model_folder
from harness.record import settle
from harness.running import Side, alternate

from truing.core.errors import bad
from truing.data.load import load
from truing.models.folder import load_tokenizer
from truing.models.template import Template

CACHES = ("dynamic", "static")
WORKLOADS = ("draws of one prompt", "different prompts")


def options() -> argparse.Namespace:
    """The command line."""
    made = parser("generate_vs_transformers", (__doc__ or "").split("\n")[0])
    made.add_argument("--data", default=MADE_UP, help="a file or Hub name with prompts (or pairs); or made-up ones")
    made.add_argument("--draws", type=int, default=32, help="of the first prompt (%(default)s)")
    made.add_argument("--prompts", type=int, default=64, help="different ones, a draw each (%(default)s)")
    made.add_argument("--tokens", type=int, default=64, help="most new tokens a draw (%(default)s)")
    made.add_argument("--longest", type=int, default=512, help="most tokens of a prompt (%(default)s)")
    made.add_argument("--stops", action="store_true", help="let the model end its replies")
    made.add_argument("--caches", default="dynamic", help=f"transformers' kinds of cache, of {', '.join(CACHES)}")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights on both sides"
    )
    words = made.parse_args()
    if words.short:
        words.draws, words.prompts, words.tokens = 4, 4, 8
    return words


def prompts(words: argparse.Namespace, model: str) -> list[list[dict[str, str]]]:
    """The first different prompts that are not too long, as messages.

    Raises:
        InputError: the data cannot be read or holds too few.
    """
    template = Template(load_tokenizer(model), model)
    source: object = [{"prompt": made_up(n, words.seed)["prompt"]} for n in range(2 * words.prompts)]
    source = source if words.data == MADE_UP else words.data
    rows = dict.fromkeys(load("prompts", source, limit=20 * words.prompts).rows)
    fit = [chat for chat in rows if len(template.prompts([chat])[0]) <= words.longest][: words.prompts]
    if len(fit) < words.prompts:
        raise bad(str(words.data), f"holds {len(fit)} different prompts, and {words.prompts} are needed")
    return [[{"role": turn.role, "content": turn.content} for turn in chat] for chat in fit]


def rows(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Tokens a second of every side at every workload, and what we are by each."""
    made = []
    for workload in WORKLOADS:
        parts = {name: [run["workloads"][workload] for run in told] for name, told in runs.items()}
        rates = {name: [{"rate": p["tokens"] / p["seconds"]} for p in told] for name, told in parts.items()}
        own = median(rates["truing"], "rate")
        for name, told in parts.items():
            rate = median(rates[name], "rate")
            figures = {"tokens": int(median(told, "tokens")), "seconds": median(told, "seconds"), "tokens/s": rate}
            memory = {"peak GB, both workloads": peak(runs[name]) / 1e9}
            apart = {"spread": f"{100 * spread(told, 'seconds'):.0f} %", "we are faster by": own / rate}
            made.append({"workload": workload, "side": name, **figures, **memory, **apart})
    return made


def main() -> None:
    """Write the prompts, run in turn, settle."""
    words = options()
    shared = common(words)
    model = model_folder(words.model)
    with tempfile.TemporaryDirectory(prefix="truing-bench-") as folder:
        file = Path(folder) / "prompts.json"
        file.write_text(json.dumps(prompts(words, model)), encoding="utf-8")
        names = ("draws", "tokens", "stops", "seed", "device", "dtype")
        told = {"model": model, "prompts": str(file), **{name: getattr(words, name) for name in names}}
        sides = [Side("truing", "ours_generate.py", told)]
        for cache in filter(None, words.caches.split(",")):
            if cache not in CACHES:
                raise bad("--caches", f"there is no {cache!r}", f"Known: {', '.join(CACHES)}.")
            sides.append(Side(f"generate, {cache} cache", "transformers_generate.py", {**told, "cache": cache}))
        runs = alternate(sides, repeats=shared.repeats, threads=shared.threads)
    facts = {"model": words.model, "data": Path(words.data).name, "draws_of_one_prompt": words.draws}
    facts |= {"different_prompts": words.prompts, "most_tokens": words.tokens, "dtype": words.dtype}
    facts |= {
        "prompt_tokens": runs["truing"][0]["prompt_tokens"],
        "replies_end": "where the model ends them" if words.stops else "at the most tokens",
    }
    settle("generate_vs_transformers", shared, work=facts, runs=runs, tables={"": table(rows(runs))})


if __name__ == "__main__":
    start(main)
