"""``python -m truing``, and so ``accelerate launch -m truing run …``."""

from __future__ import annotations

import sys

from truing.cli import main

if __name__ == "__main__":
    sys.exit(main())
