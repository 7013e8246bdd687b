"""A checkpoint is one safetensors file, replaced in one rename: there is never half a one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from truing.core.errors import RunError
from truing.engine.cache import write_atomically

if TYPE_CHECKING:
    from truing.core.lazy import torch


class Resumable(Protocol):
    """What can be written down and taken up again."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values."""

    def restore(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """The inverse."""


class Checkpoint:
    """The newest state of one training run, in ``folder/state.safetensors``."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.file, self.writes = folder / "state.safetensors", writes

    def save(self, loop: Resumable) -> None:
        """Replace the checkpoint. Every process of a run gives its part of the state; the one that writes, writes."""
        from safetensors.torch import save_file

        tensors, plain = loop.state()
        if not self.writes:
            return
        plainly = {"truing": json.dumps(plain)}
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(self.file, lambda file: save_file(own, file, metadata=plainly))

    def load(self, loop: Resumable) -> int:
        """Restore the state; the step it stands at, 0 where there is none.

        Raises:
            RunError: the file cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        if not self.file.exists():
            return 0
        try:
            with safe_open(self.file, framework="pt") as opened:
                plain = json.loads(opened.metadata()["truing"])
                loop.restore({name: opened.get_tensor(name) for name in opened.keys()}, plain)  # noqa: SIM118 - no mapping
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
            raise RunError(
                f"{self.file}: the checkpoint cannot be read ({error}). Delete it to train this arm from its start."
            ) from error
        return int(plain["step"])

    def remove(self) -> None:
        """Forget it: the artefact takes its place."""
        if not self.writes:
            return
        for file in (self.file, *self.file.parent.glob(f".{self.file.name}.*")):  # the latter of killed processes
            file.unlink(missing_ok=True)
        if self.file.parent.exists() and not any(self.file.parent.iterdir()):
            self.file.parent.rmdir()
