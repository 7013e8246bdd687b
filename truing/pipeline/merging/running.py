"""A merge, from its file to a model's folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge

from truing import __version__
from truing.core.errors import Fault, InputError, bad
from truing.core.files import UNFINISHED, told, write_text
from truing.core.method import coerce, field_faults
from truing.core.run import Log, Terminal
from truing.engine.stream import MOST, layout, write
from truing.models.folder import common_type, copy_beside, write_config
from truing.pipeline.merging.planning import Plan, plan
from truing.pipeline.merging.reading import load_merge
from truing.pipeline.merging.tokens import renumber_special

RECORD = "merge.json"
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.*",
    "*.jinja",
    "*.model",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a merge is run; they say nothing of what it makes but ``seed`` and ``allow_nan``.

    Attributes:
        seed: decides the random masks.
        allow_nan: write numbers that are not finite.
        max_shard_size: bytes of an output file.
        threads: tensors made at a time; by default as many as torch computes with.
    """

    seed: int = 0
    allow_nan: bool = False
    max_shard_size: Annotated[int, Ge(1)] = MOST
    threads: Annotated[int, Ge(1)] | None = None

    @classmethod
    def of(cls, given: Mapping[str, object]) -> tuple[Options, list[Fault]]:
        """Options from words, and what is wrong with them; ``2GB`` is a size too."""
        given = {name: _size(value) if name == "max_shard_size" else value for name, value in given.items()}
        faults = field_faults(cls, given, "--set")
        return (cls() if faults else cls(**coerce(cls, given))), faults


def check(path: Path) -> list[str]:
    """Find every fault of a merge without reading a weight; what it comes to, in lines.

    Raises:
        InputError: every fault at once.
    """
    return _lines(plan(load_merge(path)), Options())


def run(path: Path, out: Path, *, resume: bool = False, options: Options | None = None, log: Log | None = None) -> Path:
    """Make a merge's model.

    Files that a run of the same merge had finished before it was stopped are kept with ``resume``; they count as the
    same when the settings, and sizes, times, headers and samples of all input files are.

    Args:
        out: a new folder, which appears when all of it is on the disk.

    Raises:
        InputError: every fault of the file and the models, before anything is written.
        RunError: it began and could not be finished.
    """
    options, log = options or Options(), log or Terminal()
    made = plan(load_merge(path), seed=options.seed, allow_nan=options.allow_nan)
    record = _record(made, options)
    if out.exists():
        if resume and _recorded(out) == record["identity"]:
            log.say("  finished already")
            return out
        raise bad("--out", f"{out} exists already", "Give another folder, or remove it.")
    room = out.parent / f"{UNFINISHED}{out.name}-merge"
    if room.exists() and (not resume or _recorded(room) != record["identity"]):
        if resume:
            log.say("  what was begun was another merge, or of other files: it is begun anew")
        shutil.rmtree(room)
    for line in _lines(made, options):
        log.say(f"  {line}")
    with told(room):
        room.mkdir(parents=True, exist_ok=True)
        write_text(room / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    try:
        write(made.blend, room, log, most=options.max_shard_size, workers=options.threads)
    except InputError:
        if not any(room.glob("*.safetensors")):
            shutil.rmtree(room, ignore_errors=True)
        raise
    with told(room):
        _beside(made, room)
        write_text(room / "README.md", _card(made, out.name))
        for file in room.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        os.replace(room, out)
    return out


def _beside(made: Plan, folder: Path) -> None:
    """Everything but the weights: configuration, tokenizer, licence."""
    copy_beside(made.head.folder, folder)
    if made.tokens.folder != made.head.folder:
        for pattern in _TOKENIZER:
            for file in folder.glob(pattern):
                file.unlink()
            for file in made.tokens.folder.glob(pattern):
                shutil.copyfile(file, folder / file.name)
    if made.tokens.written is not None:
        write_text(folder / "tokenizer.json", json.dumps(made.tokens.written, ensure_ascii=False) + "\n")
        (folder / "added_tokens.json").unlink(missing_ok=True)
    if made.tokens.template is not None:
        write_text(folder / "chat_template.jinja", made.tokens.template)
        _change(folder / "tokenizer_config.json", lambda settings: settings.pop("chat_template", None))
    write_config(folder, {**made.changes, "dtype": common_type(made.blend)})
    if (numbers := made.tokens.numbers) is not None:
        for name in ("config.json", "generation_config.json"):
            _change(folder / name, lambda settings: renumber_special(settings, numbers))


def _change(path: Path, change: Any) -> None:
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        change(settings)
        write_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")


def _record(made: Plan, options: Options) -> dict[str, Any]:
    """What the outcome was made from; ``identity`` is a digest of all that decides it."""
    inputs = {str(reference): model.identity for reference, model in made.models.items()}
    known: dict[str, Any] = {"merge": made.config.raw, "inputs": inputs, "seed": options.seed}
    tokenizer = made.tokens.folder / "tokenizer.json"
    known["tokenizer"] = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.exists() else None
    known |= {"allow_nan": options.allow_nan, "max_shard_size": options.max_shard_size, "truing": __version__}
    text = json.dumps(known, sort_keys=True, default=str)
    return {**json.loads(text), "identity": hashlib.sha256(text.encode()).hexdigest()}


def _recorded(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / RECORD).read_text(encoding="utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lines(made: Plan, options: Options) -> list[str]:
    shards = layout(made.blend, options.max_shard_size)
    size = sum(shard.size for shard in shards) / 1e9
    files = f"{len(shards)} file{'s' * (len(shards) > 1)}"
    models = ", ".join(model.name for model in made.models.values())
    return [f"{made.config.method}: {models}", f"{len(made.blend)} tensors, {size:.2f} GB in {files}", *made.notes]


def _card(made: Plan, name: str) -> str:
    models = [model.name for model in made.models.values()]
    head = yaml.safe_dump({"library_name": "transformers", "tags": ["merge", "truing"], "base_model": models})
    recipe = yaml.safe_dump(made.config.raw, sort_keys=False)
    return (
        f"---\n{head}---\n\n# {name}\n\nA merge of {', '.join(f'`{model}`' for model in models)} by "
        f"`{made.config.method}`, made with Truing from:\n\n```yaml\n{recipe}```\n"
    )


def _size(value: object) -> object:
    """``2GB`` as bytes; anything else as it is."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    if isinstance(value, str) and value[-2:].upper() in units and value[:-2].replace(".", "", 1).isdigit():
        return int(float(value[:-2]) * units[value[-2:].upper()])
    return value
