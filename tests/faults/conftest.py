"""Real runs of the command line, in processes that tests may kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from truing.models.local import Local

ROOT = Path(__file__).resolve().parent.parent.parent
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


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (minus the signal that killed it), seconds, and what it said."""

    code: int
    seconds: float
    said: str


class Nursery:
    """Runs ``truing`` in forked children of one prepared process."""

    def __init__(self, folder: Path) -> None:
        here = Path(__file__).resolve().parent
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, here, here.parent))),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.folder, self.runs = folder, 0
        words = [sys.executable, str(here / "nursery_program.py")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def run(
        self, *words: object, cache: Path, before: str = "", after: str = "", seconds: float | None = None
    ) -> Ended:
        """One process, killed after some seconds where they are given; ``before`` and ``after`` are executed in it."""
        return self.together([words], cache=cache, before=before, after=after, seconds=seconds)[0]

    def together(
        self,
        commands: Sequence[Sequence[object]],
        *,
        cache: Path,
        before: str = "",
        after: str = "",
        seconds: float | None = None,
    ) -> list[Ended]:
        """Several processes at once that share a cache."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        orders: list[dict[str, Any]] = []
        for words in commands:
            self.runs += 1
            orders.append({
                "words": [*map(str, words)],
                "before": f"import os\nos.environ['TRUING_CACHE'] = {str(cache)!r}\n{before}",
                "after": after,
                "seconds": seconds,
                "log": str(self.folder / f"{self.runs}.log"),
            })  # fmt: skip
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        answers = json.loads(self.process.stdout.readline())
        said = [Path(order["log"]).read_text(encoding="utf-8") for order in orders]
        return [Ended(answer["code"], answer["seconds"], text) for answer, text in zip(answers, said, strict=True)]

    def close(self) -> None:
        """No more children."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@dataclass
class Undisturbed:
    """What runs come to when nothing happens to them."""

    nursery: Nursery
    home: Path
    folder: Path
    made: dict[str, tuple[Path, float]] = field(default_factory=dict)

    def __call__(self, name: str) -> Path:
        """The finished folder of a recipe; nobody may change it."""
        return self._made(name)[0]

    def seconds(self, name: str) -> float:
        """How long a run of it takes."""
        return self._made(name)[1]

    def _made(self, name: str) -> tuple[Path, float]:
        if name not in self.made:
            out = self.folder / name
            ended = self.nursery.run("run", self.home / f"{name}.yaml", "--out", out, cache=self.folder / "cache")
            assert ended.code == 0, ended.said
            self.made[name] = (out, ended.seconds)
        return self.made[name]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
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
