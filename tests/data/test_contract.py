"""The ledger adds up, and length is judged in whole turns and counted in tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from truing.core.errors import Fault
from truing.core.policy import Chat, Message, Reply, user
from truing.data.contract import SHOWN, Ledger, Lengths, Verdict, fit, shorter
from truing.data.reasons import Reason


def words(chats: Sequence[Chat], replies: Sequence[Sequence[Reply]]) -> list[Lengths | Fault]:
    """A tokenizer of words with one token of header a turn and one for each end."""
    found: list[Lengths | Fault] = []
    for chat, some in zip(chats, replies, strict=True):
        if any("unprefixed" in turn.content for turn in chat):
            found.append(Fault("", "template is not a prefix", "Use another template."))
            continue
        prompt = sum(1 + len(turn.content.split()) for turn in chat) + 1
        found.append(Lengths(prompt, tuple(len(str(reply).split()) + 1 for reply in some)))
    return found


def chat(*texts: str, system: str = "") -> Chat:
    turns = tuple(Message(("user", "assistant")[number % 2], text) for number, text in enumerate(texts))
    return (Message("system", system), *turns) if system else turns


def test_the_ledger_adds_up_and_names_the_first_rows() -> None:
    ledger = Ledger(kind="pairs", source="x.jsonl")
    for number in range(1, 31):
        ledger.add(str(number), Verdict("refused", Reason.EMPTY_REPLY, f"row {number}"))
    ledger.add("31", Verdict("kept"), "plain")
    ledger.add("32", Verdict("repaired", repairs=(Reason.STRIPPED, Reason.EMPTY_SYSTEM)), "plain")
    ledger.add("33", Verdict("shortened", Reason.OLD_TURNS, repairs=(Reason.STRIPPED,), tokens_lost=7), "plain")
    assert (ledger.read, ledger.usable) == (33, 3)
    report = ledger.to_json()
    assert report["read"] == report["kept"] + report["repaired"] + report["shortened"] + report["refused"] == 33
    assert report["tokens_lost"] == 7
    assert report["shapes"] == {"plain": 3}
    by_reason = {(entry["status"], entry["reason"]): entry for entry in report["reasons"]}
    refused = by_reason["refused", Reason.EMPTY_REPLY]
    assert refused["count"] == 30
    assert refused["first_rows"] == [str(number) for number in range(1, SHOWN + 1)]
    assert refused["detail"] == "row 1"
    assert by_reason["repaired", Reason.STRIPPED]["first_rows"] == ["32", "33"]
    assert json.loads(json.dumps(report)) == report
    brief = ledger.brief()
    assert brief.startswith("33 read, 1 kept, 1 repaired, 1 shortened, 30 refused, 7 tokens lost; 30 × ")
    assert Reason.EMPTY_REPLY in brief


def test_the_table_has_a_line_a_status_and_a_line_a_reason() -> None:
    ledger = Ledger()
    ledger.add("1", Verdict("kept"))
    ledger.add("2", Verdict("shortened", Reason.OLD_TURNS, tokens_lost=5))
    ledger.add("3", Verdict("refused", Reason.SAME))
    ledger.add("4", Verdict("refused", Reason.MISSING, "found: a"))
    ledger.add("5", Verdict("refused", Reason.MISSING, "found: b"))
    assert ledger.table() == [
        ("kept", "", "1", ""),
        ("shortened", "5 tokens lost", "1", ""),
        ("", "oldest turns dropped", "1", "2"),
        ("refused", "", "3", ""),
        ("", "missing column: found: a", "2", "4, 5"),
        ("", "chosen equals rejected", "1", "3"),
    ]
    assert ledger.refusals() == ["2 × missing column (found: a): row 4, 5", "1 × chosen equals rejected: row 3"]


def test_the_longest_reply_decides_to_the_token() -> None:
    chats, replies = [user("a b c")] * 2, [["x", "x y z"], ["x y z w", ""]]  # 5 + 4 and 5 + 5 tokens
    for max_length, statuses in ((10, ["kept", "kept"]), (9, ["kept", "refused"]), (8, ["refused", "refused"])):
        found = fit(chats, replies, measurer=words, max_length=max_length, shorten=False)
        assert [one.verdict.status for one in found] == statuses
    assert found[1].verdict.reason == Reason.TOO_LONG
    assert found[1].verdict.detail == "10 tokens for 8, the prompt alone 5"


def test_shortening_drops_the_oldest_turns_and_nothing_else() -> None:
    long = chat("one two", "three", "four five", "six", "seven", system="be brief")
    assert shorter(long) == [
        chat("four five", "six", "seven", system="be brief"),
        chat("seven", system="be brief"),
    ]
    full = words([long], [["x"]])[0]
    assert isinstance(full, Lengths)
    (one,) = fit([long], [["x"]], measurer=words, max_length=full.longest - 1, shorten=True)
    assert one.chat == chat("four five", "six", "seven", system="be brief")
    assert one.verdict == Verdict("shortened", Reason.OLD_TURNS, tokens_lost=5)
    (none,) = fit([long], [["x"]], measurer=words, max_length=7, shorten=True)
    assert none.verdict.status == "refused"  # 6 tokens of prompt at least, 2 of reply


def test_a_tool_exchange_is_never_cut_in_two() -> None:
    turns = (*chat("a", "call"), Message("tool", "7"), *chat("it is 7", "b")[::-1])
    turns = (turns[0], turns[1], turns[2], Message("assistant", "it is 7"), Message("user", "b"))
    assert shorter(turns) == [(Message("user", "b"),)]


def test_what_the_template_cannot_carry_is_refused_with_the_mend() -> None:
    (one,) = fit([user("unprefixed")], [["x"]], measurer=words, max_length=100, shorten=True)
    assert one.verdict == Verdict("refused", "template is not a prefix", "Use another template.")


TEXT = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=9), TEXT, st.integers(1, 60), st.booleans())
def test_what_fits_fits_and_loses_as_little_as_it_can(texts: list[str], reply: str, most: int, system: bool) -> None:
    whole = chat(*texts[: len(texts) - 1 + len(texts) % 2], system="s" if system else "")
    (one,) = fit([whole], [[reply]], measurer=words, max_length=most, shorten=True)
    options = [whole, *shorter(whole)]
    lengths = [found.longest for found in words(options, [[reply]] * len(options)) if isinstance(found, Lengths)]
    fitting = [option for option, length in zip(options, lengths, strict=True) if length <= most]
    if not fitting:
        assert one.verdict.status == "refused"
        return
    assert one.chat == fitting[0]
    assert one.verdict.tokens_lost == lengths[0] - lengths[options.index(fitting[0])]
    assert one.chat[-1] == whole[-1]
    assert [turn for turn in one.chat if turn.role == "system"] == [turn for turn in whole if turn.role == "system"]
