"""The pairs that every side trains on: the same rows, the same tokens, the same order."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from truing.core.errors import bad
from truing.core.evidence import Pair
from truing.core.run import Run
from truing.data.contract import Lengths
from truing.data.load import load
from truing.data.promptset import load_neutral
from truing.data.views import encode
from truing.models.embedded import resolve_embedded
from truing.models.folder import load_tokenizer
from truing.models.template import Template

MADE_UP = "made-up"


@dataclass(frozen=True)
class Prepared:
    """Pairs on disk.

    Attributes:
        ours: JSON lines in TRL's conversational columns, in the order of the source.
        peer: JSON lines of the rendered texts, in the order in which our loop visits them.
        order: that order, as numbers of rows in ``ours``.
        facts: what they are, for the report.
    """

    ours: Path
    peer: Path
    order: list[int]
    facts: dict[str, Any]


def model_folder(name: str) -> str:
    """A folder that any program can load: an embedded model is resolved, a Hub name stays."""
    if name in ("smollm2", "gemma3-270m"):
        return str(resolve_embedded(name))  # type: ignore[arg-type] # one of the two names
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def visited(count: int, seed: int) -> list[int]:
    """The order in which the training loop takes ``count`` examples in its first epoch."""
    order: list[int] = Run(seed).rng("fit", "shuffle", 0).numpy().permutation(count).tolist()
    return order


def measurer(template: Template) -> Any:
    """Tokens of prompts and replies, as the data contract asks for them."""

    def measure(chats: Any, replies: Any) -> list[Lengths]:
        return [Lengths(prompt, sizes) for prompt, sizes in template.lengths(chats, replies)]

    return measure


def prepare(folder: Path, *, model: str, data: str, count: int, turns: int, max_length: int, seed: int) -> Prepared:
    """Choose the first ``count`` pairs that fit and write them for both sides.

    Args:
        model: a folder; its tokenizer and template decide the tokens.
        turns: fewest turns of a prompt; how much a shared prompt saves depends on it, so the facts tell its length.
        max_length: longer pairs are left out, so that neither side cuts any; so are those where a token would stand
            across the end of the prompt.

    Raises:
        InputError: the data cannot be read or holds too few such pairs.
    """
    template = Template(load_tokenizer(model), model)
    source: object = [made_up(n, seed) for n in range(count)] if data == MADE_UP else data
    rows: list[Pair] = []
    for limit in (8 * count, 64 * count, None):
        loaded = load("pairs", source, limit=limit, max_length=max_length, measurer=measurer(template))
        rows = [row for row in loaded.rows if len(row.prompt) >= turns and joins(row, template)][:count]
        if len(rows) == count or not loaded.ledger.stopped:
            break
    if len(rows) < count:
        fact = f"holds {len(rows)} pairs of at least {turns} turns and at most {max_length} tokens; {count} are needed"
        raise bad(data, fact, "Give fewer --pairs, or --turns 1.")
    ours, peer, order = folder / "pairs.jsonl", folder / "peer.jsonl", visited(count, seed)
    ours.write_bytes(b"".join(map(encode, rows)))
    peer.write_text("".join(json.dumps(rendered(rows[i], template)) + "\n" for i in order), encoding="utf-8")
    return Prepared(ours, peer, order, {"data": Path(data).name, **_facts(rows, template)})


def rendered(pair: Pair, template: Template) -> dict[str, str]:
    """A pair as plain text, exactly what our own template writes.

    Left to itself the peer would add what a chat template puts after the end of a turn to every reply (a newline, one
    token more); given the text, both sides train on the same tokens.
    """
    end = template.end_of_turn
    return {
        "prompt": template.render(pair.prompt),
        "chosen": f"{pair.chosen}{end}",
        "rejected": f"{pair.rejected}{end}",
    }


def joins(pair: Pair, template: Template) -> bool:
    """Whether prompt and reply give the same tokens written together, as the peer reads them, and apart, as we do."""
    text = rendered(pair, template)
    (prompt,) = template.prompts([pair.prompt])
    for name, reply in zip(("chosen", "rejected"), (pair.chosen, pair.rejected), strict=True):
        whole = template.tokenizer(text["prompt"] + text[name], add_special_tokens=not template.has_chat).input_ids
        if tuple(whole) != prompt + template.replies([reply], bare=[not pair.prompt])[0]:
            return False
    return True


def _facts(rows: Sequence[Pair], template: Template) -> dict[str, Any]:
    sizes = template.lengths([row.prompt for row in rows], [(row.chosen, row.rejected) for row in rows])
    prompt = sum(size for size, _ in sizes)
    replies = sum(sum(both) for _, both in sizes)
    return {
        "pairs": len(rows),
        "mean_prompt_tokens": round(prompt / len(rows), 1),
        "mean_reply_tokens": round(replies / len(rows) / 2, 1),
        "tokens_with_prompts_once": prompt + replies,
        "tokens_with_prompts_twice": 2 * prompt + replies,
    }


def made_up(number: int, seed: int) -> dict[str, Any]:
    """A pair without meaning, in the sizes of a dialogue: 3 or 5 turns, of the words of shipped texts."""
    stream = random.Random(f"{seed}/{number}")
    words = _words()

    def turn(low: int, high: int) -> str:
        return " ".join(stream.choices(words, k=stream.randint(low, high)))

    prompt = []
    for k in range(stream.choice((3, 5))):
        speaker, length = ("assistant", (20, 70)) if k % 2 else ("user", (5, 30))
        prompt.append({"role": speaker, "content": turn(*length)})
    chosen, rejected = turn(10, 80), turn(10, 80)
    return {"prompt": prompt, "chosen": _said(chosen), "rejected": _said(rejected + ".")}


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@cache
def _words() -> list[str]:
    return " ".join(load_neutral()[:50]).split()
