"""Which model: a path or a name, a revision, and an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from truing.core.errors import bad


@dataclass(frozen=True)
class Reference:
    """A model as mergekit's files name it: ``PATH[@REVISION][+LORA[@REVISION]]``, or the same as a mapping.

    Example:
        >>> Reference.of("org/model@main+adapters/a")
        Reference(path='org/model', revision='main', lora='adapters/a', lora_revision=None)
        >>> str(Reference.of({"model": {"path": "m"}, "lora": "a"}))
        'm+a'
    """

    path: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        model = self.path + (f"@{self.revision}" if self.revision else "")
        lora = f"+{self.lora}" if self.lora else ""
        return model + lora + (f"@{self.lora_revision}" if self.lora_revision else "")

    @classmethod
    def of(cls, value: Any) -> Reference:
        """A reference from a text or a mapping.

        Raises:
            InputError: it is neither, or has a key that is not supported.
        """
        if isinstance(value, Mapping):
            if odd := [key for key in value if key not in ("model", "lora")]:
                if set(value) <= {"path", "revision"}:
                    return cls(*_path(value))
                raise bad("", f"has the key {odd[0]!r}, which is not supported", "Give model and lora.")
            lora = _path(value["lora"]) if value.get("lora") else (None, None)
            return cls(*_path(value.get("model")), *lora)
        if not isinstance(value, str) or not value or value.count("+") > 1:
            raise bad("", f"{value!r} names no model", "Write PATH, PATH@REVISION or PATH+LORA.")
        model, _, adapter = value.partition("+")
        return cls(*_path(model), *(_path(adapter) if adapter else (None, None)))


def _path(value: Any) -> tuple[str, str | None]:
    if isinstance(value, Mapping) and isinstance(value.get("path"), str) and set(value) <= {"path", "revision"}:
        return value["path"], value.get("revision")
    if not isinstance(value, str) or not value or value.count("@") > 1:
        raise bad("", f"{value!r} is no path", "Write PATH or PATH@REVISION.")
    path, _, revision = value.partition("@")
    return path, revision or None
