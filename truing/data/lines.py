"""Bytes of a file as lines and as rows, in bounded memory whatever the file holds."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, cast

from truing.core.errors import Fault, bad
from truing.data.reasons import Reason, Refused

SKIP_BYTES = 1 << 16
"""How much of a line that is too long is held at a time while it is skipped, bytes."""


class Row(NamedTuple):
    """A row as it stands in its source.

    Attributes:
        number: from 1: the line in JSONL (blank lines count), the record after the header in CSV, else the row.
        value: column -> value, or the fault for which it is refused (``fact`` is the reason to count it under).
        file: the file within a folder; empty where the source is one file.
    """

    number: int
    value: Mapping[str, object] | Fault
    file: str = ""

    @property
    def where(self) -> str:
        """``17``, or ``part-2.jsonl:17`` within a folder."""
        return f"{self.file}:{self.number}" if self.file else str(self.number)


class Lines(Iterator[bytes]):
    """Lines of a stream with their newline; one longer than ``most`` bytes is skipped and raises Refused.

    A line that is too long never stands in memory as a whole, and iteration goes on behind it.
    """

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most
        self.number = 0

    def __next__(self) -> bytes:
        line = self._stream.readline(self._most + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > self._most and not line.endswith(b"\n"):
            del line
            while (chunk := self._stream.readline(SKIP_BYTES)) and not chunk.endswith(b"\n"):
                pass
            raise Refused(f"line longer than {self._most} bytes")
        return line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where they are gzip (told by content, not by name).

    Raises:
        InputError: it cannot be read, is a Git LFS pointer, is UTF-16, or its gzip stream is damaged. What a damaged
            stream has lost cannot be counted, so this is a fault of the file and not of a row.
    """
    try:
        with path.open("rb") as raw:
            head = raw.peek(64)[:64] if hasattr(raw, "peek") else b""
            if head.startswith(b"version https://git-lfs"):
                raise bad(str(path), "this is a Git LFS pointer, not the data", "Fetch the file with 'git lfs pull'.")
            if head.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise bad(str(path), "the file is UTF-16", "Save it as UTF-8.")
            if head.startswith(b"\x1f\x8b"):
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        fact = f"the gzip file is damaged or cut short ({error})"
        raise bad(str(path), fact, "Fetch it again: how many rows are lost cannot be known.") from error
    except OSError as error:
        raise bad(str(path), f"cannot be read: {error.strerror or error}") from error


def parsed(line: bytes) -> Mapping[str, object]:
    """One JSON object.

    Raises:
        Refused: NUL bytes, not UTF-8, not JSON, or JSON that is not an object.
    """
    if b"\0" in line:
        raise Refused(Reason.NUL, f"at byte {line.index(0) + 1} of the line")
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Refused(Reason.BAD_UTF8, f"at byte {error.start + 1} of the line") from error
    except json.JSONDecodeError as error:
        raise Refused(Reason.BAD_JSON, f"{error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise Refused(Reason.BAD_JSON, "nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise Refused(Reason.BAD_JSON, str(error)) from error
    if not isinstance(value, Mapping):
        raise Refused(Reason.NOT_AN_OBJECT, f"a {type(value).__name__}")
    return value


def jsonl_rows(stream: IO[bytes], place: str, most: int) -> Iterator[Row]:
    """Rows of JSON Lines. Blank lines are no rows, yet they count in the numbers."""
    lines = Lines(stream, most)
    while True:
        try:
            line = next(lines)
            if line.strip():
                yield Row(lines.number, parsed(line))
        except StopIteration:
            return
        except Refused as refused:
            yield Row(lines.number, Fault(f"{place}:{lines.number}", refused.reason, refused.detail))


class _Text(Iterator[str]):
    """Lines as text; bytes that are not UTF-8 become surrogates, by which their row is found out."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __next__(self) -> str:
        return next(self._lines).decode("utf-8", "surrogateescape")


def csv_rows(stream: IO[bytes], place: str, most: int) -> Iterator[Row]:
    """Rows of CSV with a header, commas and doubled quotes. After a broken row, reading goes on at the next line.

    A cell that is a JSON list of objects is read as such: that is how conversations stand in a CSV.
    """
    lines = Lines(stream, most)
    reader = csv.reader(_Text(lines), strict=True)
    try:
        header = _record(reader, most)
    except StopIteration:
        return
    except Refused as refused:
        raise bad(f"{place}:1", f"the header cannot be read: {refused}") from refused
    if len(set(header)) != len(header):
        raise bad(f"{place}:1", f"the header names a column twice: {', '.join(header)}")
    number, last = 0, lines.number
    while True:
        number += 1
        try:
            while not (cells := _record(reader, most)):  # a blank line is no record
                pass
            row = Row(number, _named(header, cells))
        except StopIteration:
            return
        except Refused as refused:
            span = f"lines {last + 1} to {lines.number}" if lines.number > last + 1 else f"line {lines.number}"
            detail = f"{refused.detail}, {span}" if refused.detail else span
            row = Row(number, Fault(f"{place}:{number}", refused.reason, detail))
        last = lines.number
        yield row


def _record(reader: Iterator[list[str]], most: int) -> list[str]:
    before = csv.field_size_limit(most)  # global to the process, so it is set for this one step only
    try:
        return next(reader)
    except csv.Error as error:
        raise Refused(Reason.BAD_CSV, str(error)) from error
    finally:
        csv.field_size_limit(before)


def _named(header: list[str], cells: list[str]) -> dict[str, object]:
    if len(cells) != len(header):
        raise Refused("cells do not match the header", f"{len(cells)} cells under {len(header)} names")
    for name, cell in zip(header, cells, strict=True):
        if "\0" in cell:
            raise Refused(Reason.NUL, f"in column {name!r}")
        if any("\udc80" <= letter <= "\udcff" for letter in cell):
            raise Refused(Reason.BAD_UTF8, f"in column {name!r}")
    return {name: _cell(cell) for name, cell in zip(header, cells, strict=True)}


def _cell(text: str) -> object:
    if not text.startswith(("[{", "[\n", "[ {")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value) else text
