"""What every side of a benchmark does, in whichever environment it runs. Needs nothing but Python.

A side is a script that gets a job (a JSON file), loads what it needs, runs the work proper under a clock, and prints
one JSON object on its last line.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "trl", "mergekit", "truing")


def job() -> dict[str, Any]:
    """The settings that the benchmark wrote for this side."""
    found: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return found


class Clock:
    """Wall seconds of what is done inside; an accelerator is waited for.

    Example:
        >>> with Clock() as clock:
        ...     total = sum(range(1000))
        >>> clock.seconds > 0
        True
    """

    seconds = 0.0

    def __enter__(self) -> Clock:
        _wait()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        _wait()
        self.seconds = time.perf_counter() - self._began


def _cuda() -> Any:
    """``torch.cuda`` where it is loaded and in use, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _wait() -> None:
    if (cuda := _cuda()) is not None:
        cuda.synchronize()


def peak_bytes() -> int:
    """The most main memory that this process has had resident, bytes: weights, libraries and all.

    The kernel's mark of this program alone where it says so; ``ru_maxrss`` may also count the program that started it.
    """
    if STATUS.exists():
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, of those that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tell(**row: object) -> None:
    """Print the result as the last line, with this process's peak memory and versions."""
    cuda = _cuda()
    device = int(cuda.max_memory_allocated()) if cuda is not None else 0
    whole = {**row, "peak_bytes": peak_bytes(), "device_bytes": device, "versions": versions()}
    sys.stdout.flush()
    print("\n" + json.dumps(whole), flush=True)


def token_digest(trees: Iterable[Sequence[Sequence[int]]]) -> str:
    """A SHA-256 over the token ids of some pairs, each (prompt, chosen, rejected), hexadecimal."""
    sha = hashlib.sha256()
    for tree in trees:
        sha.update(json.dumps([list(part) for part in tree]).encode())
    return sha.hexdigest()
