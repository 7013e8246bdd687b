"""The most memory that was in use while something ran."""

from __future__ import annotations

import threading
from types import TracebackType

from truing.core.lazy import torch
from truing.engine.memory import device_peak, resident, uses_cuda


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
        if uses_cuda():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.host = max(self.host, resident())
        self.device = device_peak()

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self.host = max(self.host, resident())
