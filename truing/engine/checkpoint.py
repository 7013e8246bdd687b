"""A checkpoint is one safetensors file, replaced in one rename: there is never half a one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from truing.core.errors import RunError, bad, differences
from truing.core.files import file_errors, sweep, write_atomically
from truing.engine.processes import ALONE, Processes

if TYPE_CHECKING:
    from truing.core.lazy import torch


class Resumable(Protocol):
    """What can be written down and taken up again."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values."""

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse."""


class Checkpoint:
    """The newest state of one training run, in ``folder/state.safetensors``.

    While it is :meth:`ready`, SIGINT and SIGTERM wait for the end of the step that is being made: they are
    ``asked`` for, and delivered when the state is saved. A second one is delivered at once.

    Args:
        origin: plain values that decide the training; a checkpoint of other values is not taken up.
        processes: those that train together. Each gives its part of the state, and the main one writes.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any], processes: Processes = ALONE) -> None:
        self.file, self.origin = folder / "state.safetensors", json.loads(json.dumps(origin, default=str))
        self.processes = processes
        self.asked: int | None = None
        self._handlers: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Whether a signal asked for it, in whichever process: all save it, and then all are sent that signal."""
        asked = [number for number in self.processes.gathered(self.asked) if number is not None]
        if asked:
            self.asked = asked[0]
        return bool(asked)

    def save(self, loop: Resumable) -> None:
        """Replace the checkpoint; then deliver the signal that asked for it, if one did.

        Raises:
            RunError: the disk is full or cannot be written to, or the state is not finite; the checkpoint before this
                one is still there.
        """
        tensors, plain = loop.state()
        self.processes.once(lambda: self._write(tensors, plain))
        if self.agreed():
            self._deliver()

    def _write(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        from safetensors.torch import save_file

        if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise RunError(
                f"step {plain['step']}: {odd[0]} is not finite; no checkpoint was saved. Lower learning_rate."
            )
        plainly = {"truing": json.dumps({**plain, "origin": self.origin})}
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(self.file, lambda file: save_file(own, file, metadata=plainly))

    def load(self, loop: Resumable) -> int:
        """Restore the state; the step it stands at, 0 where there is none.

        Raises:
            InputError: it is of another training.
            RunError: the file cannot be read.
        """
        from safetensors import safe_open

        if self.processes.main:
            sweep(self.file.parent)
        if not self.file.exists():
            return 0
        try:
            with safe_open(self.file, framework="pt") as opened:
                plain = json.loads(opened.metadata()["truing"])
                other = differences(plain["origin"], self.origin)
                if not other:
                    loop.restore({name: opened.get_tensor(name) for name in opened.keys()}, plain)  # noqa: SIM118 - no mapping
        except file_errors(KeyError, ValueError, TypeError, RuntimeError) as error:
            raise RunError(
                f"{self.file}: the checkpoint cannot be read ({error}). Delete it to train this arm from its start."
            ) from error
        if other:
            mend = "Give back what it was begun with, or delete it to train from the start."
            raise bad(str(self.file), f"the checkpoint is of another training: {'; '.join(other[:3])}", mend)
        return int(plain["step"])

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Hold signals back; what still waits at the end is delivered then. Other threads get no signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._hold)
        try:
            yield
            self._deliver()
        finally:
            self._release()

    def _hold(self, number: int, frame: object) -> None:
        if self.asked is not None:
            self._deliver()
        self.asked = number
        # Past the log and the buffers of Python, in which the signal may have come.
        if self.processes.main:
            os.write(2, b"\n  stopping after this step, with a checkpoint; once more stops at once\n")

    def _deliver(self) -> None:
        number, self.asked = self.asked, None
        if number is not None:
            self._release()
            signal.raise_signal(number)

    def _release(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())
