"""How much memory is in use now: of the process, and of the accelerator that torch uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, cast

from truing.core.lazy import torch

STATM = Path("/proc/self/statm")


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
