"""A whole small comparison: a random model on disk, a judge in a file, a recipe of every kind of arm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from truing.core.recipe import Recipe, parse

NOUNS = ("rain", "bread", "tides", "cats", "iron", "maps", "salt", "owls", "glass", "roads", "ink", "wool", "ships")
JUDGE = """
def vowels(chats, replies):
    return [float(sum(reply.count(vowel) for vowel in "aeiou")) for reply in replies]
"""


def write_judge(folder: Path) -> str:
    """A judge that counts vowels; what a recipe writes for it."""
    file = folder / "judge.py"
    file.write_text(JUDGE, encoding="utf-8")
    return f"python:{file}:vowels"


def write_pairs(folder: Path) -> str:
    """Pairs whose chosen reply has the more vowels; their path."""
    rows = [{"prompt": f"Say {n}.", "chosen": "aeiou " + n, "rejected": "xyz " + n} for n in NOUNS]
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def comparison(folder: Path, model: Path | str, **changed: Any) -> Recipe:
    """Prompting, reranking along n, training, and a merge of what was trained."""
    training = {"beta": [0.1], "learning_rate": 1e-2, "max_steps": 3, "per_device_train_batch_size": 4}
    raw = {
        "model": str(model),
        "seed": 1,
        "data": {"pairs": write_pairs(folder)},
        "judge": write_judge(folder),
        "sampling": {"max_new_tokens": 6},
        "evaluate": {"prompts": [{"prompt": f"What of {noun}?"} for noun in NOUNS[:5]], "draws": 3},
        "arms": {
            "exemplars": [{"prompt/exemplars": {"shots": 1, "preamble": False}}],
            "best_of_n": [{"rerank/best_of_n": {"n": [2, 4]}}],
            "dpo": [{"preference/dpo": training}],
            "merge": {"donors": {"tuned": "arms.dpo/beta=0.1"}, "steps": [{"merge/linear": {"weight": [0.5]}}]},
        },
        **changed,
    }
    return parse(raw, name="small")
