"""One call from a file to typed rows: what is read is counted, and where it is held makes no difference."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.core.errors import Fault, InputError
from truing.core.evidence import Contrast, Demo, Pair, Rating
from truing.core.policy import Chat, Draw, Message, Reply, user
from truing.data import Lengths, divide, held_out, load
from truing.data.reasons import Reason
from truing.data.views import Selection, decode, encode


def pairs(count: int, *, size: int = 1) -> list[dict[str, Any]]:
    return [{"prompt": f"question {n}", "chosen": f"yes {n} " * size, "rejected": f"no {n}"} for n in range(count)]


def write(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def measure(chats: Sequence[Chat], replies: Sequence[Sequence[Reply]]) -> list[Lengths | Fault]:
    sizes = [sum(len(turn.content.split()) for turn in chat) for chat in chats]
    return [Lengths(n, tuple(len(str(r).split()) for r in some)) for n, some in zip(sizes, replies, strict=True)]


def test_a_file_with_every_kind_of_damage_is_read_row_by_row(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    lines: list[tuple[bytes, str]] = [
        (json.dumps(good).encode(), ""),
        (b'{"prompt": "p", "chosen"', Reason.BAD_JSON),
        (json.dumps({"prompt": "p", "chosen": "a"}).encode(), Reason.MISSING),
        (json.dumps({**good, "chosen": " "}).encode(), Reason.EMPTY_REPLY),
        (json.dumps({**good, "chosen": "b"}).encode(), Reason.SAME),
        (json.dumps({**good, "prompt": "word " * 30}).encode(), Reason.TOO_LONG),
        (json.dumps({**good, "prompt": turns}).encode(), Reason.ROLE_ORDER),
        (b'{"prompt": "\0"}', Reason.NUL),
        (json.dumps({**good, "prompt": "a\0b"}).encode(), Reason.NUL),
        (b'{"prompt": "\xff"}', Reason.BAD_UTF8),
        (b"x" * 5_000_000, "line longer than 100000 bytes"),
        (json.dumps({**good, "prompt": " q "}).encode(), ""),
    ]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join(line for line, _ in lines))
    loaded = load("pairs", {"source": path, "max_row_bytes": 100_000, "max_length": 20}, measurer=measure)
    assert list(loaded.rows) == [Pair(user("p"), "a", "b"), Pair(user("q"), "a", "b")]
    assert loaded.ledger.statuses == {"kept": 1, "repaired": 1, "refused": 10}
    wanted: dict[str, list[str]] = {}
    for number, (_, reason) in enumerate(lines, 1):
        if reason:
            wanted.setdefault(str(reason), []).append(str(number))
    entries = loaded.ledger.entries.items()
    assert {reason: entry.rows for (status, reason), entry in entries if status == "refused"} == wanted


def test_rows_in_memory_and_in_a_file_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(200))
    small, large = load("pairs", path), load("pairs", path, in_memory=1000, cache=tmp_path / "cache")
    assert isinstance(small.rows, tuple)
    assert not isinstance(large.rows, tuple | list)
    assert list(large.rows) == list(large.rows) == list(small.rows)
    assert len(large.rows) == 200
    assert large.digest == small.digest
    assert (large.rows[7], large.rows[-1]) == (small.rows[7], small.rows[-1])
    assert list(large.rows[150:10:-3]) == list(small.rows[150:10:-3])
    assert list(large.rows[5:50][::2]) == list(small.rows[5:50:2])
    with pytest.raises(IndexError):
        large.rows[200]
    assert list(pickle.loads(pickle.dumps(large.rows))) == list(small.rows)
    (file,) = (tmp_path / "cache").iterdir()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == large.digest
    assert file.name == f"rows-{large.digest[:32]}.jsonl"
    assert load("pairs", file).digest == large.digest


def test_temporary_rows_live_as_long_as_they_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    loaded = load("pairs", pairs(50), in_memory=100)
    assert len(list(tmp_path.rglob("rows-*.jsonl"))) == 1
    rows = loaded.rows
    del loaded
    assert rows[49] == Pair(user("question 49"), "yes 49", "no 49")
    del rows
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_source_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in pairs(500)).encode())[:-40])
    with pytest.raises(InputError, match="cut short"):
        load("pairs", path, in_memory=100, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(4000, size=1000))
    size = path.stat().st_size
    tracemalloc.start()
    loaded = load("pairs", path, in_memory=1 << 20, cache=tmp_path)
    total = sum(len(pair.chosen) for pair in loaded.rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > size * 0.9
    assert peak < size / 4


def test_limit_counts_usable_rows_and_stops_reading() -> None:
    items = pairs(300)
    items[1]["chosen"] = ""
    loaded = load("pairs", iter(items), limit=3)
    assert [pair.prompt for pair in loaded.rows] == [user(f"question {n}") for n in (0, 2, 3)]
    assert (loaded.ledger.read, loaded.ledger.stopped) == (4, True)
    assert not load("pairs", items).ledger.stopped
    assert len(load("pairs", {"source": items, "limit": 7}, limit=2).rows) == 2


def test_shortened_rows_are_used_shortened() -> None:
    turns = [("user", "a b c"), ("assistant", "d"), ("user", "e")]
    chat = [{"role": role, "content": text} for role, text in turns]
    data = {"source": [{"prompt": chat, "chosen": "x ", "rejected": "y z"}], "max_length": 3}
    assert (load("pairs", data).ledger.usable, load("pairs", data).ledger.measured) == (1, False)
    strict = load("pairs", data, measurer=measure)
    assert strict.ledger.measured
    assert strict.ledger.statuses == {"refused": 1}
    loose = load("pairs", {**data, "overlong": "shorten_prompt"}, measurer=measure)
    assert loose.rows == (Pair(user("e"), "x", "y z"),)
    assert loose.ledger.statuses == {"shortened": 1}
    assert loose.ledger.tokens_lost == 4
    assert ("repaired", Reason.STRIPPED) in loose.ledger.entries


def test_prompts_demos_and_ratings_are_measured_too() -> None:
    rows = [{"prompt": "a b", "completion": "c", "label": 1}, {"prompt": "a b", "completion": "c d", "label": 0}]
    for kind, usable in (("prompts", 2), ("demos", 1), ("ratings", 1)):
        assert load(kind, rows, max_length=3, measurer=measure).ledger.usable == usable  # type: ignore[arg-type]  # a kind
    with pytest.raises(InputError, match="max_length is not for texts"):
        load("texts", [{"text": "a"}], max_length=3, measurer=measure)


def test_one_prompt_is_on_one_side_whatever_the_file() -> None:
    rows = [{**row, "chosen": f"{row['chosen']} {n}"} for row in pairs(400) for n in range(2)]
    train = load("pairs", {"source": rows, "hold_out": 0.25})
    held = load("pairs", {"source": rows[::-1], "hold_out": 0.25, "side": "held_out"})
    train_prompts, held_prompts = {p.prompt for p in train.rows}, {p.prompt for p in held.rows}
    assert train_prompts.isdisjoint(held_prompts)
    assert len(train_prompts | held_prompts) == 400
    assert len(held.rows) == 2 * len(held_prompts)
    assert 60 < len(held_prompts) < 140  # 100 expected, standard deviation 8.7
    assert train.ledger.elsewhere == held.ledger.read == len(held.rows)
    as_prompts = load("prompts", {"source": rows, "hold_out": 0.25, "side": "held_out"})
    assert set(as_prompts.rows) == held_prompts
    left, right = divide(load("pairs", rows).rows, 0.25)
    assert (list(left), set(right)) == (list(train.rows), set(held.rows))


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_what_a_smaller_does(text: str, a: float, b: float) -> None:
    assert held_out(user(text), min(a, b)) <= held_out(user(text), max(a, b))
    assert not held_out(user(text), 0.0)
    assert held_out(user(text), 1.0)


def test_texts_are_held_out_by_their_own_text() -> None:
    rows = load("texts", [{"text": f"text {n}"} for n in range(200)]).rows
    left, right = divide(rows, 0.5)
    assert 60 < len(left) < 140
    assert sorted([*left, *right]) == sorted(rows)


def test_too_few_rows_say_why() -> None:
    loaded = load("pairs", [*pairs(1), {"prompt": "p"}, {"prompt": "q"}], place="data.pairs")
    assert loaded.at_least(1) is loaded
    with pytest.raises(InputError) as caught:
        loaded.at_least(2)
    first, second = caught.value.faults
    assert "1 usable pairs of 3 rows read, and 2 needed" in first.fact
    assert "2 × missing column" in second.fact
    assert "row 2, 3" in second.fact
    with pytest.raises(InputError, match="no such kind"):
        load("pair", [])  # type: ignore[arg-type]  # on purpose


def test_the_digest_is_of_the_rows_and_not_of_the_file(tmp_path: Path) -> None:
    items = pairs(5)
    one = load("pairs", write(tmp_path / "a.jsonl", items))
    two = load("pairs", [{"id": n, **item, "chosen": f" {item['chosen']}"} for n, item in enumerate(items)])
    assert one.digest == two.digest
    assert one.digest != load("pairs", items[::-1]).digest
    assert one.digest != load("demos", items).digest


TEXT = st.text(st.characters(codec="utf-8"))
CHAT = st.lists(st.builds(Message, st.sampled_from(["user", "assistant", "system"]), TEXT), max_size=3).map(tuple)
ITEM = st.one_of(
    TEXT,
    CHAT,
    st.builds(Pair, CHAT, TEXT, TEXT, st.none() | st.floats(0, 10)),
    st.builds(Demo, CHAT, TEXT),
    st.builds(Rating, CHAT, TEXT, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Contrast, CHAT, CHAT),
)


@given(ITEM)
def test_encode_then_decode_is_the_row_in_one_line(item: Any) -> None:
    line = encode(item)
    assert line.count(b"\n") == 1
    assert decode(line) == item


def test_a_draw_is_not_flattened_to_text() -> None:
    with pytest.raises(TypeError, match="draw"):
        encode(Demo(user("a"), Draw("b", (1, 2))))


def test_a_selection_is_a_view() -> None:
    view = Selection("abcdef", range(5, 0, -2))
    assert (list(view), list(view[1:]), len(view)) == (["f", "d", "b"], ["d", "b"], 3)


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'pandas'}"
    code = f"import sys, truing.data; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
