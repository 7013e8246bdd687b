"""Where rows come from: a file, a folder, a name on the Hub, or Python objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from annotated_types import Ge, Lt

from truing.core.errors import Fault, InputError, bad, did_you_mean
from truing.core.method import coerce, field_faults
from truing.data.lines import Row, csv_rows, jsonl_rows, opened, parsed
from truing.data.reasons import Reason, Refused

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
MAX_ROW_BYTES = 16 << 20
MAX_JSON_BYTES = 256 << 20
"""A ``.json`` is one value and is read whole, so it has a limit where JSONL has none."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read and how.

    Attributes:
        source: a path, a Hub name (``owner/name``), an iterable of mappings, or a ``datasets`` object.
        split: the split of a Hub set or a ``DatasetDict`` (``train`` where none is named), or the files of a folder
            whose name has that word.
        config: the Hub set's configuration.
        revision: the Hub set's commit, branch or tag.
        columns: our column -> the source's name for it, e.g. ``{prompt: question, completion: answer}``.
        limit: at most this many rows are kept; reading stops there.
        max_row_bytes: a longer line of JSONL or CSV is refused unread, bytes.
        whitespace: ``strip`` takes surrounding whitespace off every turn (counted as repaired); ``keep`` leaves it.
        max_length: most tokens of a prompt with its longest reply, template and end of turn included.
        overlong: ``refuse`` a row that is longer, or ``shorten_prompt`` by its oldest turns.
        hold_out: the share of prompts that is held out, [0, 1); which ones, only their text decides.
        side: ``train`` reads the rest, ``held_out`` reads those.
    """

    source: Any
    split: str = ""
    config: str = ""
    revision: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    limit: Annotated[int, Ge(1)] | None = None
    max_row_bytes: Annotated[int, Ge(16)] = MAX_ROW_BYTES
    whitespace: Literal["strip", "keep"] = "strip"
    max_length: Annotated[int, Ge(1)] | None = None
    overlong: Literal["refuse", "shorten_prompt"] = "refuse"
    hold_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    side: Literal["train", "held_out"] = "train"

    @staticmethod
    def of(value: object, place: str = "data", **settings: object) -> Source:
        """From a path, a name, a mapping with ``source`` and further settings, or Python objects.

        Args:
            value: what a recipe or a caller gave.
            place: where it stands, for faults.
            settings: fields to set on top; None is not set.

        Raises:
            InputError: unknown settings or values out of range, all at once.
        """
        given = {name: setting for name, setting in settings.items() if setting is not None}
        if isinstance(value, Source):
            given = {**{f.name: getattr(value, f.name) for f in fields(Source)}, **given}
        elif isinstance(value, Mapping) and not _from_datasets(value):
            if "source" not in value:
                found = ", ".join(map(str, value)) or "nothing"
                raise bad(place, f"no 'source' among {found}", "Name a file or a set.")
            given = {**value, **given}
        else:
            given = {"source": value, **given}
        faults = field_faults(Source, given, place)
        if given.get("side") == "held_out" and not given.get("hold_out"):
            faults.append(Fault(place, "side is held_out, but hold_out is not set", "Set e.g. 'hold_out: 0.1'."))
        if faults:
            raise InputError(*faults)
        typed: dict[str, Any] = coerce(Source, given)
        return Source(**typed)

    @property
    def label(self) -> str:
        """The source in a few words."""
        if isinstance(self.source, str | Path):
            return ":".join(filter(None, (str(self.source), self.config, self.split)))
        return f"Python objects ({type(self.source).__name__})"


def rows(source: Source) -> Iterator[Row]:
    """Every row of a source in its order, each a mapping or the fault for which it is refused.

    Raises:
        InputError: the source itself cannot be read: no such file or set, unknown format, damaged archive.
    """
    for row in _rows(source):
        if source.columns and isinstance(row.value, Mapping):
            row = row._replace(value=_renamed(row.value, source.columns))
        yield row


def _renamed(value: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    rest = {name: cell for name, cell in value.items() if name not in columns}
    return rest | {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def _rows(source: Source) -> Iterator[Row]:
    if not isinstance(source.source, str | Path):
        return _object_rows(source.source, source)
    path = Path(source.source).expanduser()
    if path.is_dir():
        return _folder_rows(path, source)
    if path.exists():
        if source.split:
            raise bad(str(path), f"one file has no split {source.split!r}", "Use 'hold_out' and 'side' to divide it.")
        return _file_rows(path, source)
    name = str(source.source)
    if name.endswith((*ENDINGS, ".tsv", ".txt")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name[0] == ".":
        near = [str(p) for p in path.parent.iterdir() if p.name.endswith(ENDINGS)] if path.parent.is_dir() else []
        raise bad(name, "there is no such file", did_you_mean(name, near[:50]) if near else "")
    return _hub_rows(name, source)


def _file_rows(path: Path, source: Source) -> Iterator[Row]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet_rows(path)
        return
    if not name.endswith(ENDINGS):
        raise bad(str(path), "unknown kind of file", f"Known endings: {', '.join(ENDINGS)}.")
    with opened(path) as stream:
        if ".csv" in name[-7:]:
            yield from csv_rows(stream, str(path), source.max_row_bytes)
        elif ".jsonl" in name[-9:] or _is_lines(path, source):
            yield from jsonl_rows(stream, str(path), source.max_row_bytes)
        else:
            yield from _json_rows(stream, path)


def _is_lines(path: Path, source: Source) -> bool:
    """Whether a ``.json`` is JSON Lines by another name: its first line alone is an object, and not ``{"data": …}``."""
    with opened(path) as stream:
        first = stream.readline(source.max_row_bytes)
    try:
        return not isinstance(parsed(first.removeprefix(b"\xef\xbb\xbf")).get("data"), list)
    except Refused:
        return False


def _json_rows(stream: IO[bytes], path: Path) -> Iterator[Row]:
    body = stream.read(MAX_JSON_BYTES + 1)
    if len(body) > MAX_JSON_BYTES:
        raise bad(
            str(path), f"a .json of more than {MAX_JSON_BYTES >> 20} MiB", "Save it as JSON Lines, which streams."
        )
    try:
        value = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        fact = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise bad(str(path), f"not JSON: {fact}", "As JSON Lines, a bad row would cost only itself.") from error
    items = value.get("data") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise bad(str(path), "neither a list of rows nor {'data': [rows]}")
    yield from _numbered(items, str(path))


def _numbered(items: Iterable[object], place: str) -> Iterator[Row]:
    for number, item in enumerate(items, 1):
        fault = Fault(f"{place}:{number}", Reason.NOT_AN_OBJECT, f"a {type(item).__name__}")
        yield Row(number, item if isinstance(item, Mapping) else fault)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise bad(str(path), "reading Parquet needs pyarrow", "pip install 'truing[data]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            items = (item for batch in file.iter_batches(batch_size=64) for item in batch.to_pylist())
            yield from _numbered(items, str(path))
    except (arrow.ArrowException, OSError) as error:
        raise bad(str(path), f"not readable as Parquet: {error}") from error


def _folder_rows(folder: Path, source: Source) -> Iterator[Row]:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        yield from _object_rows(_datasets(str(folder)).load_from_disk(str(folder)), source)
        return
    inside = [p for p in folder.rglob("*") if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    files = sorted(p for p in inside if p.is_file() and p.name.lower().endswith(ENDINGS))
    if source.split:
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(source.split)}(?![A-Za-z0-9])")
        files = [p for p in files if word.search(p.relative_to(folder).as_posix())]
    if not files:
        wanted = f" of split {source.split!r}" if source.split else ""
        found = ", ".join(sorted(p.name for p in inside if p.is_file())[:8]) or "nothing"
        raise bad(str(folder), f"no data file{wanted} in this folder (found: {found})", f"Known: {', '.join(ENDINGS)}.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        yield from (row._replace(file=name) for row in _file_rows(path, source))


def _object_rows(items: Any, source: Source) -> Iterator[Row]:
    if _from_datasets(items) and isinstance(items, Mapping):
        split = source.split or "train"
        if split not in items:
            raise bad(source.label, f"no split {split!r}", did_you_mean(split, map(str, items)))
        items = items[split]
    if isinstance(items, bytes) or not isinstance(items, Iterable):
        raise bad(source.label, "not an iterable of rows")
    return _numbered(items, "row")


def _hub_rows(name: str, source: Source) -> Iterator[Row]:
    load = _datasets(name).load_dataset
    number, settings = 0, {"split": source.split or "train", "streaming": True, "revision": source.revision or None}
    try:
        for row in _numbered(load(name, source.config or None, **settings), name):
            number = row.number
            yield row
    except Exception as error:  # the Hub's libraries raise of many kinds; whatever it was, the reader needs the cause
        cause = str(error).strip().split("\n")[0] or type(error).__name__
        fact = (
            f"no such file here, and the Hub's set could not be read{f' after row {number}' if number else ''}: {cause}"
        )
        raise bad(name, fact, "Check the name, the split and the network, or give a local file.") from error


def _datasets(place: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise bad(place, "reading this needs the datasets library", "pip install 'truing[data]'") from error
    return datasets


def _from_datasets(value: object) -> bool:
    return type(value).__module__.split(".")[0] == "datasets"
