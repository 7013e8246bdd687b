"""From a name to a policy: weights here, an endpoint, or a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from truing.core.errors import bad
from truing.core.policy import Policy
from truing.core.run import Log

if TYPE_CHECKING:
    from truing.models.template import Template

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

    options = {"trust_remote_code": trust_remote_code, "allow_pickle": allow_pickle, "load_in_4bit": load_in_4bit}
    policy = load_local(where(name), adapter=adapter, dtype=dtype, device=device, log=log, **options)
    policy.origin = None if adapter is not None or load_in_4bit else name
    return policy


def load_template(name: str, *, trust_remote_code: bool = False) -> tuple[Template, int | None]:
    """How a local model writes a chat and counts its tokens, and its context in tokens: without its weights.

    Raises:
        InputError: it has no tokenizer that can be read here.
    """
    from transformers import AutoConfig

    from truing.models.folder import load_tokenizer
    from truing.models.template import Template

    try:
        tokenizer = load_tokenizer(where(name), trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(where(name), trust_remote_code=trust_remote_code).get_text_config()
    except (OSError, ValueError, ImportError) as error:
        fact = f"its tokenizer cannot be read here ({str(error).strip().splitlines()[0]})"
        raise bad(f"model {name!r}", fact, "Give a folder or a Hub name, or count no lengths.") from error
    return Template(tokenizer, name), getattr(config, "max_position_embeddings", None)


def where(name: str) -> str:
    """Where transformers finds it."""
    if name not in EMBEDDED:
        return name
    from truing.models.embedded import resolve_embedded

    return str(resolve_embedded(name))  # type: ignore[arg-type] # a member of EMBEDDED
