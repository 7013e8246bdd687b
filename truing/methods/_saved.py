"""A saved policy, whatever it is: a model, or a method around one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truing.core.artefact import WRAPPED
from truing.core.errors import bad
from truing.core.evidence import Evidence, Judge
from truing.core.method import build
from truing.core.policy import Policy
from truing.core.run import Log, Quiet, Run
from truing.judges.resolve import resolve_judge
from truing.models import load_model


def load(name: str, *, log: Log | None = None, **options: Any) -> Policy:
    """A policy by name: everything that :func:`truing.models.load_model` takes, and folders of wrapped policies.

    Raises:
        InputError: there is no such model, or the model behind a wrapper is not the one it was saved with.
    """
    file = Path(name) / WRAPPED
    if not file.exists():
        return load_model(name, log=log, **options)
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
        method = build(row["method"], **row["settings"])
        behind = row["base"] if row["base"] != "base" else str(Path(name) / "base")
    except (ValueError, KeyError, TypeError) as error:
        raise bad(str(file), f"cannot be read: {error!r}", "Save the policy again.") from error
    base = load(behind, log=log, **options)
    if base.fingerprint != row["fingerprint"]:
        raise bad(str(file), f"was saved around another {behind} than there is now", "Give it that model again.")
    judge = make_judge(row["judge"]) if row["judge"] is not None else None
    made = method(base, Evidence(judge=judge), Run(log=log or Quiet()))
    if not isinstance(made, Policy):
        raise bad(str(file), f"{row['method']} gives no policy", "Save the policy again.")
    return made


def make_judge(spec: Any) -> Judge:
    """The judge that a recipe or a saved policy names; it remembers the words for it, so it can be saved again."""
    judge = resolve_judge(spec, remote=_endpoint)
    if not isinstance(spec, Judge):
        judge.spec = spec
    return judge


def _endpoint(settings: Mapping[str, object]) -> Policy:
    from truing.models.remote import Remote

    try:
        return Remote(**settings)  # type: ignore[arg-type] # checked by the constructor
    except TypeError as error:
        raise bad("judge.remote", str(error), "Give base_url and model.") from error
