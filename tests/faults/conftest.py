"""A home with a model, data and recipes, and runs of these that tests may kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nursery import Nursery, Undisturbed

if TYPE_CHECKING:
    from truing.models.local import Local

RECIPE = """
model: {home}/model
seed: 3
data: {{pairs: {home}/pairs.jsonl}}
judge: python:{home}/judge.py:vowels
sampling: {{max_new_tokens: 5}}
evaluate: {{prompts: {{source: {home}/prompts.jsonl}}, draws: 2}}
probes: [win_rate, reward, kl, perplexity, cost]
arms:
  best: [{{rerank/best_of_n: {{n: 2}}}}]
  dpo: [{{preference/dpo: {{learning_rate: 1.0e-3, max_steps: {steps}, per_device_train_batch_size: 2,
                            save_steps: {save}, logging_steps: 1}}}}]
"""
NOUNS = ("rain", "bread", "tides", "cats", "iron", "maps", "salt", "owls", "glass", "roads")


@pytest.fixture(scope="session", name="nursery")
def made_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """One for all tests; each gives its runs a folder of their own."""
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def home(tiny_policy: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, a judge, and recipes of an arm that reranks and one that trains.

    ``recipe.yaml`` trains for twelve steps, ``long.yaml`` for 120, both with a checkpoint at each, and ``seldom.yaml``
    for twelve without one.
    """
    folder = tmp_path_factory.mktemp("home")
    (folder / "model").mkdir()
    tiny_policy.save(folder / "model")
    rows = [{"prompt": f"Say {noun}.", "chosen": "aeiou " + noun, "rejected": "xyz " + noun} for noun in NOUNS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = [{"prompt": f"What of {noun}?"} for noun in NOUNS[:3]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    (folder / "judge.py").write_text(
        "def vowels(chats, replies):\n    return [float(sum(r.count(v) for v in 'aeiou')) for r in replies]\n",
        encoding="utf-8",
    )
    for name, steps, save in (("recipe", 12, 1), ("long", 120, 1), ("seldom", 12, 200)):
        text = RECIPE.format(home=folder, steps=steps, save=save)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def undisturbed(nursery: Nursery, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Runs of the recipes that nothing disturbs, each made once."""
    return Undisturbed(nursery, home, tmp_path_factory.mktemp("undisturbed"))
