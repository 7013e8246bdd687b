"""Real runs of the command line, in processes that tests may kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


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
