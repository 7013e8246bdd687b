"""Rows as lines of a file: a sequence larger than memory, and the canonical bytes that a digest is taken of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import weakref
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from truing.core.evidence import Contrast, Demo, Pair, Ranked, Rating
from truing.core.policy import Chat, Message, Reply
from truing.data.shapes import Item

T = TypeVar("T", covariant=True)


def encode(item: Item) -> bytes:
    """A row as one line of JSON in TRL's conversational columns. Equal rows give equal bytes.

    Raises:
        TypeError: a reply is a draw, whose tokens a text would lose.
    """
    return (json.dumps(_columns(item), ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8")


def _columns(item: Item) -> dict[str, Any]:
    match item:
        case str():
            return {"text": item}
        case Pair():
            row = {"prompt": _messages(item.prompt), "chosen": _reply(item.chosen), "rejected": _reply(item.rejected)}
            return row if item.margin is None else {**row, "margin": item.margin}
        case Ranked():
            replies = [_reply(reply) for reply in item.replies]
            return {"prompt": _messages(item.prompt), "completions": replies, "scores": list(item.scores)}
        case Demo():
            return {"prompt": _messages(item.prompt), "completion": _reply(item.reply)}
        case Rating():
            return {"prompt": _messages(item.prompt), "completion": _reply(item.reply), "label": item.value}
        case Contrast():
            return {"positive": _messages(item.positive), "negative": _messages(item.negative)}
        case _:
            return {"prompt": _messages(item)}


def _messages(chat: Chat) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in chat]


def _reply(reply: Reply) -> list[dict[str, str]]:
    if not isinstance(reply, str):
        raise TypeError("a draw is tokens; a line of text would lose them")
    return [{"role": "assistant", "content": reply}]


def decode(line: bytes) -> Any:
    """The inverse of :func:`encode`."""
    row = json.loads(line)
    if "text" in row:
        return row["text"]
    if "positive" in row:
        return Contrast(_chat(row["positive"]), _chat(row["negative"]))
    prompt = _chat(row["prompt"])
    if "chosen" in row:
        return Pair(prompt, row["chosen"][0]["content"], row["rejected"][0]["content"], row.get("margin"))
    if "completions" in row:
        replies = tuple(reply[0]["content"] for reply in row["completions"])
        return Ranked(prompt, replies, tuple(row["scores"]))
    if "label" in row:
        return Rating(prompt, row["completion"][0]["content"], row["label"])
    return Demo(prompt, row["completion"][0]["content"]) if "completion" in row else prompt


def _chat(turns: list[Mapping[str, str]]) -> Chat:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


class RowFile(Sequence[T], Generic[T]):
    """Rows that stay in a file of canonical lines and are parsed when read. Memory: 8 bytes a row.

    Safe to share between threads and to pickle to another process that sees the file.

    Args:
        path: the file.
        starts: the offset of each line and, last, the size of the file, bytes.
    """

    def __init__(self, path: Path, starts: array[int]) -> None:
        self.path, self._starts = path, starts
        self._open()

    def _open(self) -> None:
        self._file, self._lock = self.path.open("rb"), threading.Lock()
        self._closer = weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return Selection(self, range(*place.indices(len(self))))
        number = range(len(self))[place]
        with self._lock:
            self._file.seek(self._starts[number])
            line = self._file.read(self._starts[number + 1] - self._starts[number])
        row: T = decode(line)
        return row

    def __getstate__(self) -> tuple[Path, array[int]]:
        return self.path, self._starts

    def __setstate__(self, state: tuple[Path, array[int]]) -> None:
        self.path, self._starts = state
        self._open()


class Selection(Sequence[T], Generic[T]):
    """Some rows of a sequence, by number, without reading them."""

    def __init__(self, rows: Sequence[T], numbers: Sequence[int]) -> None:
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return Selection(self._rows, self._numbers[place])
        return self._rows[self._numbers[place]]


class Store:
    """Takes rows one by one; holds them in memory up to a size and in a file beyond it.

    Args:
        folder: where the file goes, named by its content; None is a temporary folder that lives as long as the rows.
        in_memory: most canonical bytes to hold in memory.
    """

    def __init__(self, folder: Path | None, in_memory: int) -> None:
        self._folder, self._in_memory = folder, in_memory
        self._rows: list[Any] = []
        self._starts = array("Q", [0])
        self._hash = hashlib.sha256()
        self._file: Any = None
        self._temporary: Path | None = None

    def add(self, item: Item) -> None:
        """One more row."""
        line = encode(item)
        self._hash.update(line)
        self._starts.append(self._starts[-1] + len(line))
        if self._file is None:
            self._rows.append(item)
            if self._starts[-1] > self._in_memory:
                self._spill()
        else:
            self._file.write(line)

    def _spill(self) -> None:
        if self._folder is None:
            self._temporary = self._folder = Path(tempfile.mkdtemp(prefix="truing-rows-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False)  # noqa: SIM115 - outlives this call
        self._file.writelines(map(encode, self._rows))
        self._rows = []

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical lines of all rows so far, hexadecimal."""
        return self._hash.hexdigest()

    def close(self) -> Sequence[Any]:
        """The rows. The file gets its final name only here, when it is whole."""
        if self._file is None:
            return tuple(self._rows)
        self._file.close()
        part = Path(self._file.name)
        whole = part.with_name(f"rows-{self.digest[:32]}.jsonl")
        os.replace(part, whole)
        view: RowFile[Any] = RowFile(whole, self._starts)
        if self._temporary is not None:
            weakref.finalize(view, shutil.rmtree, self._temporary, ignore_errors=True)
        return view

    def abandon(self) -> None:
        """Take back what was written; for when reading failed."""
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
