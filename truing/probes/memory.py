"""The most memory that was in use while something ran."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from truing.core.lazy import torch

STATM = Path("/proc/self/statm")


class Peak:
    """Samples this process's resident memory in a thread; of an accelerator, asks torch for its own peak.

    The kernel's own high-water mark never comes down again, so it cannot tell one arm from the next. Sampling
    can miss a peak shorter than ``interval``. Where ``/proc`` does not exist, the high-water mark is used.

    Attributes:
        host: bytes resident in main memory at the peak; all of the process, its weights and libraries included.
        device: bytes allocated on the current CUDA device at its peak; 0 where torch does not use one.

    Example:
        >>> with Peak() as peak:
        ...     block = bytearray(1 << 20)
        >>> peak.bytes > len(block)
        True
    """

    def __init__(self, *, interval: float = 0.02) -> None:
        self.interval, self.host, self.device = interval, 0, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="truing-memory", daemon=True)

    @property
    def bytes(self) -> int:
        """Main and device memory together."""
        return self.host + self.device

    def __enter__(self) -> Peak:
        self.host = resident()
        if _cuda():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.host = max(self.host, resident())
        if _cuda():
            self.device = int(torch.cuda.max_memory_allocated())

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self.host = max(self.host, resident())


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


def _cuda() -> bool:
    """Whether torch is loaded and has begun to use CUDA; asking must not be what starts either."""
    return "torch" in sys.modules and bool(cast(Any, torch.cuda).is_initialized())
