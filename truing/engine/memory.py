"""How much memory is in use now, of the process and of the accelerator that torch uses; and who keeps what is freed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from truing.core.lazy import torch

STATM = Path("/proc/self/statm")
TRIM, MAP = -1, -3  # the thresholds of mallopt(3): from where freed memory is given back, and from where it is mapped
ALWAYS, NEVER = 2**25, 2**30  # bytes; at the first, glibc's own greatest, every large tensor is mapped anew
_KEEPING: list[ctypes.CDLL] = []


def resident() -> int:
    """Bytes of this process in main memory now; its high-water mark where the system does not say."""
    if STATM.exists():
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import resource
    except ImportError:  # Windows has neither
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def uses_cuda() -> bool:
    """Whether torch is loaded and has begun to use CUDA; asking must not be what starts either."""
    return "torch" in sys.modules and bool(cast(Any, torch.cuda).is_initialized())


def device_peak() -> int:
    """Bytes allocated on the current CUDA device at most since its peak was last reset; 0 where there is none."""
    return int(torch.cuda.max_memory_allocated()) if uses_cuda() else 0


@contextmanager
def keeping() -> Iterator[None]:
    """Within it, freed memory stays with the process, and is given back to the system at the end.

    glibc maps every large tensor anew, and the system fills each page with zeros at its first use: a sixth of the
    processor time of a training step on SmolLM2. It costs what lies between the pieces: 3 % of the peak there, and a
    sixth where passes are short. Where the allocator is another one, or its thresholds are set in the environment,
    nothing is done.
    """
    libc = _glibc()
    if libc is None or _KEEPING:
        yield
        return
    libc.mallopt(MAP, NEVER)
    libc.mallopt(TRIM, -1)
    _KEEPING.append(libc)
    try:
        yield
    finally:
        _KEEPING.clear()
        libc.mallopt(MAP, ALWAYS)
        libc.mallopt(TRIM, 2 * ALWAYS)
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    tuned = "malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ)
    if not sys.platform.startswith("linux") or "LD_PRELOAD" in os.environ or tuned:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
