"""The processes that a launcher started together: who this one is, and what passes between them.

Every process runs the same program on the same recipe and data. Training divides its examples over them; what can
be made in one place and is small (draws, evidence, decisions about files) is made by the main one and sent.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

from truing.core.errors import bad
from truing.core.lazy import torch

T = TypeVar("T")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # what torchrun and MPI set
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
PATIENCE = timedelta(days=7)  # the others wait while the main process measures; a launcher notices one that died


@dataclass(frozen=True)
class Processes:
    """This process among ``count``.

    Attributes:
        index: from 0, which is the main one: it alone writes, logs, draws and measures.
        device: where tensors that are sent must be.
    """

    index: int = 0
    count: int = 1
    device: Any = None

    @property
    def main(self) -> bool:
        """Whether this one writes, logs, draws and measures."""
        return self.index == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def once(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the main process, sent to all; where it fails there, it fails everywhere.

        The value is pickled between processes of one run.
        """
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.main:
            try:
                told = [make(), None]
            except Exception as error:  # whatever it is, the others must not wait for a value that never comes
                told = [None, error]
        torch.distributed.broadcast_object_list(told, src=0, device=self.device)
        if told[1] is not None:
            raise told[1]
        return cast(T, told[0])

    def gathered(self, part: T) -> list[T]:
        """The part of every process, by index, in each of them."""
        if self.count == 1:
            return [part]
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, part)
        return parts

    def totals(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number summed over the processes, which must all give the same names."""
        if self.count == 1:
            return dict(numbers)
        kind = torch.float32 if getattr(self.device, "type", "cpu") == "mps" else torch.float64
        sums = torch.tensor([numbers[name] for name in sorted(numbers)], dtype=kind, device=self.device)
        torch.distributed.all_reduce(sums)
        return dict(zip(sorted(numbers), sums.tolist(), strict=True))

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum each tensor over the processes, in place."""
        if self.count > 1:
            under_way = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
            for work in under_way:
                work.wait()


ALONE = Processes()
"""One process, which a launcher did not start."""


def launched() -> int:
    """How many processes a launcher says that there are, without loading torch."""
    return max(int(os.environ.get(name) or 1) for name in SIZES)


def main_process() -> bool:
    """Whether this one speaks for all, without loading torch."""
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name)), 0) == 0


def asked(engine: str) -> bool:
    """Whether the launcher told accelerate to use an engine, ``DEEPSPEED`` or ``CPU``.

    Raises:
        InputError: it is DeepSpeed, which is not installed.
    """
    from accelerate.utils import is_deepspeed_available, parse_flag_from_env

    told = bool(parse_flag_from_env(f"ACCELERATE_USE_{engine}"))
    if told and engine == "DEEPSPEED" and not is_deepspeed_available():
        raise bad("accelerate", "asks for DeepSpeed, which is not installed", "Run: pip install 'truing[deepspeed]'")
    return told


def here() -> Processes:
    """This process; where a launcher started several, accelerate connects them at the first call.

    Raises:
        InputError: accelerate is not installed, or the engine that it is asked for.
    """
    if launched() == 1:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise bad("", "several processes need accelerate", "Run: pip install 'truing[train]'") from error
    asked("DEEPSPEED")
    alone = asked("CPU") or not torch.accelerator.is_available()
    new = not PartialState._shared_state
    state = PartialState(cpu=alone, timeout=PATIENCE)
    if new:  # else gloo's threads still wait when the interpreter is taken down, and abort a process that is done
        atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes, state.device)


def shares(costs: Sequence[int], count: int) -> list[list[int]]:
    """Indices of ``costs`` in ``count`` shares of about the same sum, each in order: the dearest first, to the poorest.

    Example:
        >>> shares([5, 1, 4, 2], 2)
        [[0, 1], [2, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        poorest = min(range(count), key=lambda part: (sums[part], part))
        parts[poorest].append(i)
        sums[poorest] += costs[i]
    return [sorted(part) for part in parts]
