"""A peer's own virtual environment, made from the package registry with the versions that we use ourselves."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from truing.core.errors import RunError, bad

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


def requirements(packages: Sequence[str]) -> list[str]:
    """The packages, and exactly our torch, its build included: ``+cpu`` here keeps CUDA wheels out there."""
    return [*packages, f"torch=={importlib.metadata.version('torch')}"]


def peer_python(name: str, packages: Sequence[str], *, home: Path, pip_flags: str = "") -> Path:
    """The interpreter of a virtual environment that has these packages; made where it is not there as asked.

    Args:
        name: the folder below ``home``.
        packages: requirements; what our ``constraints.txt`` pins is pinned there too, so both sides run on one stack.
        pip_flags: options for pip, e.g. an index with CPU builds of torch.

    Raises:
        RunError: it cannot be made or pip cannot install.
        InputError: a folder of that name is there and is no virtual environment.
    """
    folder = home / name
    wanted = "\n".join(requirements(packages)) + "\n" + CONSTRAINTS.read_text(encoding="utf-8")
    stamp = folder / ".installed"
    python = folder / "bin" / "python"
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    if folder.exists() and not (folder / "pyvenv.cfg").exists():
        raise bad(str(folder), "is there and is no virtual environment", "Give another folder with --venv.")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(requirements(packages))} into {folder} ...", file=sys.stderr, flush=True)
    _call([sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    _call([*install, *shlex.split(pip_flags), *requirements(packages)])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _call(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        mend = "For a CPU build of torch: --pip-flags='--extra-index-url https://download.pytorch.org/whl/cpu'."
        raise RunError(f"{' '.join(words[:4])} ... failed:\n{tail}\n{mend}")
