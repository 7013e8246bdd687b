"""What is set before the numerical libraries load."""

from __future__ import annotations

import os
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def settle_kernels() -> None:
    """Pin MKL to one code path: the same sums on every run and, on processors that are not Intel's, the wide one.

    Without it MKL picks kernels by vendor; measured on two Zen 4 cores, matrix products of a 135M model were a
    seventh slower. Only read when torch loads, so this comes first; what the user has set stays.
    """
    flags = _CPUINFO.read_text(encoding="ascii", errors="replace") if _CPUINFO.exists() else ""
    path = next((name for flag, name in (("avx512dq", "AVX512"), ("avx2", "AVX2")) if flag in flags), None)
    if path is not None:
        os.environ.setdefault("MKL_CBWR", path)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
