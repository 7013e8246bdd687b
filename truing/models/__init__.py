"""From a name to a policy: weights here, an endpoint, or a table."""

from __future__ import annotations

from pathlib import Path

from truing.core.errors import bad
from truing.core.policy import Policy
from truing.core.run import Log

EMBEDDED = ("smollm2", "gemma3-270m")


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    load_in_4bit: bool = False,
    log: Log | None = None,
) -> Policy:
    """A policy by name.

    Args:
        name: an embedded model (``smollm2``), a folder, a Hub name, a saved table, or ``URL#MODEL`` of an endpoint
            that speaks OpenAI's protocol.
        adapter: a PEFT adapter to apply to a local model.
        dtype, device, trust_remote_code, allow_pickle, load_in_4bit: see :func:`truing.models.local.load_local`.

    Raises:
        InputError: there is no such model, or it is not safe to open as asked.
    """
    if name.startswith(("http://", "https://")):
        from truing.models.remote import Remote

        url, _, model = name.partition("#")
        if not model:
            raise bad("model", f"{name} names no model at that endpoint", f"Write {name}#MODEL.")
        return Remote(base_url=url, model=model)
    if (Path(name) / "tabular.json").exists():
        from truing.models.tabular import Tabular

        return Tabular.load(Path(name))
    if (Path(name) / "remote.json").exists():
        from truing.models.remote import Remote

        return Remote.load(Path(name))
    from truing.models.local import load_local

    place = name
    if name in EMBEDDED:
        from truing.models.embedded import resolve_embedded

        place = str(resolve_embedded(name))  # type: ignore[arg-type] # a member of EMBEDDED
    options = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle, "load_in_4bit": load_in_4bit}
    policy = load_local(place, adapter=adapter, dtype=dtype, device=device, log=log, **options)
    policy.origin = None if adapter is not None or load_in_4bit else name
    return policy
