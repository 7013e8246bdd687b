"""Ranked lists: every layout of one list is that list, each bad row has its own name, and all rows are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import Fault
from truing.core.evidence import Ranked
from truing.core.policy import Chat, Message, user
from truing.core.recipe import parse
from truing.data.contract import Lengths
from truing.data.load import load
from truing.data.reasons import Reason, Refused
from truing.data.shapes import shape
from truing.data.views import decode, encode
from truing.pipeline.checking import check

LIST = Ranked(user("How many?"), ("One.", "Two.", "Three."), (1.0, 3.0, 2.0))
TEXTS = list(LIST.replies)
ROW: dict[str, Any] = {"prompt": "How many?", "completions": TEXTS, "scores": [1, 3, 2]}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ASKED = {"role": "user", "content": "How many?"}
SAME: dict[str, dict[str, Any]] = {
    "plain": ROW,
    "scores as text": {**ROW, "scores": ["1", "3.0", "2"]},
    "responses": {"prompt": "How many?", "responses": TEXTS, "scores": [1, 3, 2]},
    "messages": {**ROW, "prompt": [ASKED], "completions": [said(text) for text in TEXTS]},
    "bare messages": {**ROW, "completions": [said(text)[0] for text in TEXTS]},
    "conversations": {**ROW, "completions": [[ASKED, *said(text)] for text in TEXTS]},
    "as in UltraFeedback": {
        "instruction": "How many?",
        "completions": [
            {"response": text, "overall_score": n, "model": "m"} for text, n in zip(TEXTS, (1, 3, 2), strict=True)
        ],
    },
    "columns of texts and scores": {"prompt": "How many?", "completions": {"text": TEXTS, "score": [1.0, 3.0, 2.0]}},
    "a pair as well": {**ROW, "chosen": "Two.", "rejected": "One."},
}


@pytest.mark.parametrize("layout", SAME)
def test_every_layout_of_one_list_is_that_list(layout: str) -> None:
    assert shape("lists", SAME[layout]).items == (LIST,)
    if "prompt" in SAME[layout]:
        assert shape("prompts", SAME[layout]).items == (LIST.prompt,)


RANKED = [("a", 3), ("b", 1.0), ("c", 2)]
NECTAR = {
    "prompt": "\n\nHuman: q\n\nAssistant: ",
    "answers": [{"answer": text, "rank": rank} for text, rank in RANKED],
}


@pytest.mark.parametrize("raw", [{"prompt": "q", "completions": ["a", "b", "c"], "ranks": [3, 1, 2]}, NECTAR])
def test_of_ranks_the_least_is_the_best(raw: dict[str, Any]) -> None:
    assert shape("lists", raw).items == (Ranked(user("q"), ("a", "b", "c"), (-3.0, -1.0, -2.0)),)


def test_a_pair_is_a_list_of_two() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert shape("lists", pair).items == (Ranked(user("q"), ("a", "b"), (1.0, 0.0)),)
    scored = {**pair, "score_chosen": 9, "score_rejected": 7.5}
    assert shape("lists", scored).items == (Ranked(user("q"), ("a", "b"), (9.0, 7.5)),)
    assert shape("lists", {"chosen": "The sky is blue", "rejected": "The sky is red"}).items == (
        Ranked(user("The sky is"), ("blue", "red"), (1.0, 0.0)),
    )


def test_the_layout_is_said() -> None:
    assert shape("lists", ROW).shape == "prompt/completions/scores, plain"
    assert shape("lists", SAME["messages"]).shape == "prompt/completions/scores, conversational"
    assert shape("lists", SAME["as in UltraFeedback"]).shape == "instruction/completions, plain"


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
REFUSED: list[tuple[dict[str, Any], Reason]] = [
    ({"prompt": "q", "completions": ["a", "b"]}, Reason.MISSING),
    ({"prompt": "q", "scores": [1, 2]}, Reason.MISSING),
    ({"completions": ["a", "b"], "scores": [1, 2]}, Reason.MISSING),
    ({**ROW, "completions": None}, Reason.NO_VALUE),
    ({**ROW, "completions": "One."}, Reason.NOT_TEXT),
    ({**ROW, "completions": ["a", 7, "c"]}, Reason.NOT_TEXT),
    ({**ROW, "completions": ["a"], "scores": [1]}, Reason.FEW),
    ({**ROW, "completions": [], "scores": []}, Reason.FEW),
    ({**ROW, "scores": [1, 2]}, Reason.UNEVEN),
    ({**ROW, "scores": [1, 2, float("nan")]}, Reason.NOT_A_NUMBER),
    ({**ROW, "scores": [1, 2, float("inf")]}, Reason.NOT_A_NUMBER),
    ({**ROW, "scores": [1, 2, None]}, Reason.NOT_A_NUMBER),
    ({**ROW, "scores": "1 2 3"}, Reason.NOT_A_NUMBER),
    ({"prompt": "q", "completions": [{"text": "a", "score": 1}, {"text": "b"}]}, Reason.NOT_A_NUMBER),
    ({**ROW, "scores": [2, 2, 2]}, Reason.TIED),
    ({**ROW, "completions": ["a", " \n", "c"]}, Reason.EMPTY_REPLY),
    ({"prompt": "q", "completions": [{"text": "a", "score": 1}, {"score": 2}]}, Reason.EMPTY_REPLY),
    ({**ROW, "completions": ["a", "b", " a"]}, Reason.TWICE),
    ({**ROW, "completions": [[ASKED, *said("a")], [ASKED, *said("x"), ASKED, *said("b")], "c"]}, Reason.PROMPT_DIFFERS),
    ({**ROW, "prompt": " "}, Reason.NO_PROMPT),
    ({**PAIR, "score_chosen": 1, "score_rejected": 1}, Reason.TIED),
    ({**PAIR, "score_chosen": 1, "score_rejected": 2}, Reason.NEGATIVE_MARGIN),
    ({**PAIR, "margin": 1, "score_chosen": 1, "score_rejected": 2}, Reason.NEGATIVE_MARGIN),
]


@pytest.mark.parametrize(("raw", "reason"), REFUSED)
def test_each_bad_row_has_its_own_name(raw: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Refused) as caught:
        shape("lists", raw)
    assert caught.value.reason == reason


def test_a_missing_column_says_what_is_needed() -> None:
    with pytest.raises(Refused, match="found: prompt, completions; needed: prompt and completions with scores"):
        shape("lists", {"prompt": "q", "completions": ["a", "b"]})


def test_a_row_is_a_line_of_text_and_comes_back() -> None:
    assert decode(encode(LIST)) == LIST
    assert shape("lists", json.loads(encode(LIST))).items == (LIST,)


def words(chats: Any, replies: Any) -> list[Lengths | Fault]:
    """A token a word."""
    sizes = [tuple(len(reply.split()) for reply in group) for group in replies]
    return [Lengths(sum(len(t.content.split()) for t in chat), size) for chat, size in zip(chats, sizes, strict=True)]


def test_the_longest_reply_decides_whether_a_row_is_too_long() -> None:
    turns = [("user", "a b c"), ("assistant", "d"), ("user", "e")]
    chat = [{"role": role, "content": text} for role, text in turns]
    rows = [
        {"prompt": chat, "completions": ["x", "y y y y", "z"], "scores": [1, 2, 3]},
        {"prompt": chat, "completions": ["x", "y y y y y y y", "z"], "scores": [1, 2, 3]},
    ]
    given = {"source": rows, "overlong": "shorten_prompt", "max_length": 6}
    loaded = load("lists", given, measurer=words)
    short: Chat = (Message("user", "e"),)
    assert list(loaded.rows) == [Ranked(short, ("x", "y y y y", "z"), (1.0, 2.0, 3.0))]
    assert loaded.ledger.statuses == {"shortened": 1, "refused": 1}
    assert loaded.ledger.tokens_lost == 4


def test_what_is_held_out_is_decided_by_the_prompt_in_every_kind() -> None:
    rows = [{"prompt": f"q{i}", "completions": ["a", "b"], "scores": [0, 1]} for i in range(200)]
    found = load("lists", {"source": rows, "hold_out": 0.2, "side": "held_out"})
    prompts = load("prompts", {"source": rows, "hold_out": 0.2, "side": "held_out"})
    assert [row.prompt for row in found.rows] == list(prompts.rows)
    assert 20 < len(found.rows) < 60


def test_rows_beyond_memory_are_the_same_rows(tmp_path: Path) -> None:
    rows = [{**ROW, "prompt": f"q{i}"} for i in range(50)]
    small, large = load("lists", rows), load("lists", rows, in_memory=500, cache=tmp_path)
    assert list(large.rows) == list(small.rows)
    assert large.digest == small.digest


def test_check_counts_lists_and_says_why_rows_are_refused(tmp_path: Path) -> None:
    rows = [row for row, _ in REFUSED if row.get("scores") != [1, 2, float("inf")]] + [ROW] * 2
    file = tmp_path / "lists.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw = {"model": "m", "data": {"lists": str(file)}, "arms": {"pl": ["listwise/plackett_luce"]}}
    checked = check(parse(raw, name="r"))
    ledger = checked.ledgers["lists"]
    assert (ledger.usable, ledger.read) == (2, len(rows))
    assert "data: 2 lists" in checked.lines[1]
    told = {reason for _, reason, _, _ in ledger.table()}
    for reason in (Reason.FEW, Reason.UNEVEN, Reason.TIED, Reason.TWICE):
        assert any(text.startswith(reason) for text in told), reason
