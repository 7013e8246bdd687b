"""The machine that a result was measured on, in a few plain values."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO, MEMINFO = Path("/proc/cpuinfo"), Path("/proc/meminfo")


def cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def describe(threads: int, note: str = "") -> dict[str, object]:
    """Processor, cores, memory, system, load, and the settings that decide a speed."""
    model = next((line.split(":", 1)[1].strip() for line in _lines(CPUINFO) if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) * 1024 for line in _lines(MEMINFO) if line.startswith("MemTotal")), 0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": cores(),
        "threads": threads,
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": round(load, 2),
        "MKL_CBWR": os.environ.get("MKL_CBWR", ""),
        "note": note,
    }


def sentence(machine: dict[str, object]) -> str:
    """The description as a line of a report."""
    text = (
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, load at the start {machine['load_at_start']}"
    )
    return text + (f". {machine['note']}" if machine["note"] else "")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
