"""Named randomness: a stream is its seed and its name, never the order in which things ran."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Rng:
    """A point in a tree of random streams.

    Example:
        >>> Rng(0).child("fit", "shuffle", 1) == Rng(0).child("fit").child("shuffle", 1)
        True
        >>> Rng(0).child("a").integer() == Rng(0).child("b").integer()
        False
    """

    seed: int
    path: tuple[str, ...] = field(default=())

    def child(self, *names: object) -> Rng:
        """The stream of that name below this one."""
        return Rng(self.seed, (*self.path, *map(str, names)))

    def integer(self) -> int:
        """A number in [0, 2**63) that only the seed and the name decide."""
        text = "\x1f".join((str(self.seed), *self.path))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def numpy(self) -> np.random.Generator:
        """A counter-based NumPy generator at the start of this stream."""
        import numpy as np

        return np.random.Generator(np.random.Philox(self.integer()))
