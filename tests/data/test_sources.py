"""The same rows from every format, and every way in which a file can be bad, by row and by name."""

from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import Fault, InputError
from truing.data.reasons import Reason
from truing.data.sources import Source, rows

ROWS: list[dict[str, Any]] = [
    {"prompt": 'Say ü, and "no".', "chosen": "ü\nno", "rejected": "\u2028"},
    {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
]


def jsonl(items: list[Any]) -> bytes:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def read(source: object, **settings: object) -> list[Any]:
    return [row.value for row in rows(Source.of(source, **settings))]


def faults(source: object, **settings: object) -> list[tuple[int, str]]:
    found = rows(Source.of(source, **settings))
    return [(row.number, row.value.fact) for row in found if isinstance(row.value, Fault)]


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as out:
        writer = csv.DictWriter(out, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.Table.from_pylist(ROWS), path)


def pack(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(jsonl(ROWS)),
    "crlf.jsonl": lambda path: path.write_bytes(jsonl(ROWS).replace(b"\n", b"\r\n")),
    "no-newline.jsonl": lambda path: path.write_bytes(jsonl(ROWS)[:-1]),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + jsonl(ROWS)),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "data.json": lambda path: path.write_text(json.dumps({"data": ROWS})),
    "lines.json": lambda path: path.write_bytes(jsonl(ROWS)),
    "a.csv": write_csv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, packed: bool) -> None:
    WRITERS[name](tmp_path / name)
    if packed and name != "a.parquet":
        pack(tmp_path / name)
        name += ".gz"
    assert read(tmp_path / name) == ROWS
    assert [row.number for row in rows(Source.of(str(tmp_path / name)))] == [1, 2]


def test_python_objects_and_datasets_give_the_same_rows(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list(ROWS)
    assert read(ROWS) == read(iter(ROWS)) == read(made) == read(made.to_iterable_dataset()) == ROWS
    both = datasets.DatasetDict({"train": made, "test": made.select([1])})
    assert read(both) == ROWS
    assert read(both, split="test") == ROWS[1:]
    made.save_to_disk(tmp_path / "one")
    both.save_to_disk(tmp_path / "two")
    assert read(tmp_path / "one") == read(tmp_path / "two") == ROWS
    assert read(tmp_path / "two", split="test") == ROWS[1:]
    with pytest.raises(InputError, match=r"no split 'tset'.*'test'"):
        read(both, split="tset")


def test_a_folder_is_read_in_sorted_order_and_names_its_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "test-0.jsonl").write_bytes(jsonl(ROWS[1:]) + b"{\n")
    (tmp_path / "z-train.jsonl").write_bytes(jsonl(ROWS))
    (tmp_path / "README.md").write_text("about")
    (tmp_path / ".hidden.jsonl").write_bytes(b"{")
    found = list(rows(Source.of(tmp_path)))
    places = ["b/test-0.jsonl:1", "b/test-0.jsonl:2", "z-train.jsonl:1", "z-train.jsonl:2"]
    assert [row.where for row in found] == places
    assert [row.value for row in found if not isinstance(row.value, Fault)] == [ROWS[1], *ROWS]
    assert read(tmp_path, split="train") == ROWS
    with pytest.raises(InputError, match="no data file of split 'dev'"):
        read(tmp_path, split="dev")


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"question": "q", "prompt": "old", "answer": "a"}]))
    columns = {"prompt": "question", "completion": "answer", "label": "none"}
    renamed = {"question": "q", "prompt": "q", "answer": "a", "completion": "a"}
    assert read({"source": path, "columns": columns}) == [renamed]


def test_each_bad_line_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = jsonl(ROWS[1:])
    bad = [
        (b'{"prompt": \n', Reason.BAD_JSON),
        (b"[1]\n", Reason.NOT_AN_OBJECT),
        (b'{"prompt": "\0"}\n', Reason.NUL),
        (b'{"prompt": "\xff"}\n', Reason.BAD_UTF8),
        (b"[" * 100_000 + b"\n", Reason.BAD_JSON),
        (b'{"n": ' + b"9" * 10_000 + b"}\n", Reason.BAD_JSON),
        (b'{"prompt": "' + b"x" * 200_000 + b'"}\n', "line longer than 150000 bytes"),
    ]
    path.write_bytes(b"\n".join(line + good for line, _ in bad))
    found = faults(path, max_row_bytes=150_000)
    assert found == [(3 * number + 1, reason) for number, (_, reason) in enumerate(bad)]
    assert [value for value in read(path, max_row_bytes=150_000) if not isinstance(value, Fault)] == ROWS[1:] * len(bad)


def test_the_longest_line_is_kept_and_one_byte_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    line = jsonl(ROWS[1:])
    path.write_bytes(line * 2 + line[:-1])
    assert faults(path, max_row_bytes=len(line) - 1) == []
    assert [number for number, _ in faults(path, max_row_bytes=len(line) - 2)] == [1, 2, 3]


@pytest.mark.parametrize("packed", [False, True])
def test_one_huge_line_costs_no_memory(tmp_path: Path, packed: bool) -> None:
    path, size = tmp_path / "a.jsonl", 50 << 20
    with gzip.open(path, "wb", 1) if packed else path.open("wb") as out:
        out.write(jsonl(ROWS))
        for _ in range(50):
            out.write(b"x" * (1 << 20))
        out.write(b"\n" + jsonl(ROWS))
    tracemalloc.start()
    found = list(rows(Source.of(path, max_row_bytes=1 << 16)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.number for row in found] == [1, 2, 3, 4, 5]
    assert [row.value for row in found if isinstance(row.value, Fault)] == [
        Fault(f"{path}:3", "line longer than 65536 bytes")
    ]
    assert peak < size / 20


def test_csv_rows_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"prompt,completion\n"
        b"1,a\n"
        b"2\n"
        b"\n"
        b"3,a\0b\n"
        b"4,\xff\n"
        b'5,"two\nlines"\n'
        b'6,"a"b\n'
        b"7," + b"x" * 300 + b"\n"
        b'8,"[{""role"": ""assistant"", ""content"": ""a""}]"\n'
        b'9,"never closed\n'
    )
    found = {row.number: row.value for row in rows(Source.of(path, max_row_bytes=200))}
    refused = {number: value.fact for number, value in found.items() if isinstance(value, Fault)}
    assert refused == {
        2: "cells do not match the header",
        3: Reason.NUL,
        4: Reason.BAD_UTF8,
        6: Reason.BAD_CSV,
        7: "line longer than 200 bytes",
        9: Reason.BAD_CSV,
    }
    assert found[5] == {"prompt": "5", "completion": "two\nlines"}
    assert found[8] == {"prompt": "8", "completion": [{"role": "assistant", "content": "a"}]}
    assert csv.field_size_limit() == 131072


def test_json_elements_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROWS[1], 7]))
    assert faults(path) == [(2, Reason.NOT_AN_OBJECT)]
    assert faults([ROWS[1], "text"]) == [(2, Reason.NOT_AN_OBJECT)]


BROKEN: dict[str, tuple[bytes, str]] = {
    "cut.jsonl.gz": (gzip.compress(jsonl(ROWS) * 50)[:-30], "gzip file is damaged or cut short"),
    "flipped.jsonl.gz": (gzip.compress(jsonl(ROWS))[:-8] + b"\0" * 8, "gzip file is damaged"),
    "wide.jsonl": (jsonl(ROWS).decode().encode("utf-16"), "UTF-16"),
    "pointer.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid x\n", "Git LFS pointer"),
    "object.json": (b'{"rows":\n 3}', "neither a list of rows"),
    "half.json": (b'[{"a": 1},\n', "not JSON"),
    "twice.csv": (b"a,a\n1,2\n", "names a column twice"),
    "a.parquet": (b"PAR1 not really", "not readable as Parquet"),
    "a.xlsx": (b"PK", "unknown kind of file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(InputError, match=BROKEN[name][1]):
        read(tmp_path / name)


def test_what_is_not_there_says_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_bytes(b"")
    assert read(tmp_path / "pairs.jsonl") == []
    with pytest.raises(InputError, match=r"no such file.*pairs\.jsonl"):
        read(tmp_path / "pair.jsonl")
    with pytest.raises(InputError, match="no split"):
        read(tmp_path / "pairs.jsonl", split="train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no data file in this folder \(found: nothing\)"):
        read(tmp_path / "empty")
    with pytest.raises(InputError, match="not an iterable"):
        read(7)


def test_settings_are_checked_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Source.of({"source": "x", "splt": "train", "limit": 0, "side": "held_out"})
    assert len(caught.value.faults) == 3
    assert "Did you mean 'split'?" in str(caught.value)
    with pytest.raises(InputError, match="no 'source' among split"):
        Source.of({"split": "train"})
    again = Source.of(Source.of({"source": "x", "split": "dev"}), limit=3, split=None)
    assert (again.source, again.split, again.limit) == ("x", "dev", 3)


def test_a_hub_set_streams_and_its_errors_explain_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load_dataset(*args: object, **settings: object) -> list[dict[str, Any]]:
        asked.append((args, settings))
        if settings["split"] == "gone":
            raise ConnectionError("Couldn't reach the Hub\nlong trace")
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read({"source": "owner/set", "config": "en", "revision": "abc"}) == ROWS
    assert asked == [(("owner/set", "en"), {"split": "train", "streaming": True, "revision": "abc"})]
    with pytest.raises(
        InputError, match="no such file here, and the Hub's set could not be read: Couldn't reach"
    ) as it:
        read("owner/set", split="gone")
    assert "network" in str(it.value)
