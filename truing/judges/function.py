"""A judge that is the user's own Python function."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from truing.core.errors import Fault, InputError, RunError, bad, did_you_mean
from truing.core.evidence import Judge
from truing.core.policy import Chat

Scorer = Callable[[Sequence[Chat], Sequence[str]], Iterable[float]]


class FunctionJudge(Judge):
    """Scores replies by a function ``(chats, replies) -> scores``, one finite number a reply.

    Args:
        function: the function, or where it is: ``module:function`` or ``path/to/file.py:function``. Naming it is
            the permission to import that module or run that file; nothing else is imported.
        name: what reports call it; the place or the function's own name by default.

    Raises:
        InputError: no such file, module or function, or what is there cannot be called.
    """

    def __init__(self, function: Scorer | str, *, name: str = "") -> None:
        found = load_function(function) if isinstance(function, str) else function
        if not callable(found):
            raise bad(f"judge {name or function}", f"{found!r} cannot be called", "Name a function (chats, replies).")
        self.function: Scorer = found
        own = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
        self.name = name or f"python:{own}"

    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        """What the function says, checked: as many numbers as replies, every one finite.

        Raises:
            InputError: chats and replies differ in number.
            RunError: the function raised, or gave back something else than one finite number a reply.
        """
        if len(chats) != len(replies):
            raise InputError(Fault(f"judge {self.name}", f"{len(chats)} chats but {len(replies)} replies"))
        try:
            scores = [float(value) for value in self.function(chats, replies)]
        except Exception as error:
            raise RunError(f"judge {self.name}: {type(error).__name__}: {error}") from error
        if len(scores) != len(replies):
            raise RunError(
                f"judge {self.name}: it gave {len(scores)} scores for {len(replies)} replies. Return one for each."
            )
        for number, value in enumerate(scores):
            if not math.isfinite(value):
                raise RunError(f"judge {self.name}: score {number} is {value}, for the reply {replies[number][:60]!r}.")
        return scores


def load_function(place: str) -> Any:
    """What stands at ``module:name`` or ``path.py:name``; ``name`` may go into a class with dots.

    Raises:
        InputError: the place is ill-formed, or nothing is there.
    """
    source, _, name = place.rpartition(":")
    if not source or not name:
        raise bad(f"judge python:{place}", "it names no function", "Write module:function or path/to/file.py:function.")
    value: Any = _file(source) if source.endswith(".py") else _module(source)
    for part in name.split("."):
        if not hasattr(value, part):
            known = [key for key, held in vars(value).items() if callable(held) and not key.startswith("_")]
            raise bad(f"judge python:{place}", f"{source} has no {part!r}", did_you_mean(part, known))
        value = getattr(value, part)
    return value


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        mend = "Install it, or give the path of its file, path/to/file.py:function."
        raise bad(f"judge python:{name}", f"the module cannot be imported: {error}", mend) from error


def _file(path: str) -> ModuleType:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise bad(f"judge python:{path}", "there is no such file")
    # A name of its own keeps a user's judge.py from standing in the way of an installed module "judge".
    name = f"_truing_judge_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise bad(f"judge python:{path}", "Python cannot load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise bad(f"judge python:{path}", f"the file raised {type(error).__name__}: {error}") from error
    return module
