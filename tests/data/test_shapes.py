"""Each layout gives the same evidence as any other that says the same, and each bad row its own name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.core.evidence import Contrast, Demo, Pair, Rating
from truing.core.policy import Message, user
from truing.data.reasons import Reason, Refused
from truing.data.shapes import Kind, shape
from truing.data.turns import Reader, common, split_text

U, A, S = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system"))
CHAT = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye?"))
TURNS = [U("Hi"), A("Hello"), U("Bye?")]
HUMAN = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye?\n\nAssistant:"
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Bye?"}]

SAME_PAIR: dict[str, dict[str, Any]] = {
    "messages, one-message replies": {"prompt": TURNS, "chosen": [A("Yes")], "rejected": [A("No")]},
    "messages, text replies": {"prompt": TURNS, "chosen": "Yes", "rejected": "No"},
    "messages, bare message": {"prompt": TURNS, "chosen": A("Yes"), "rejected": A("No")},
    "prompt repeated in the conversations": {
        "prompt": TURNS,
        "chosen": [*TURNS, A("Yes")],
        "rejected": [*TURNS, A("No")],
    },
    "prompt as its last user turn": {"prompt": "Bye?", "chosen": [*TURNS, A("Yes")], "rejected": [*TURNS, A("No")]},
    "implicit": {"chosen": [*TURNS, A("Yes")], "rejected": [*TURNS, A("No")]},
    "transcripts, implicit": {"chosen": HUMAN + " Yes", "rejected": HUMAN + " No"},
    "transcripts, explicit": {"prompt": HUMAN, "chosen": "Yes", "rejected": "No"},
    "transcripts, repeated": {"prompt": HUMAN, "chosen": HUMAN + " Yes", "rejected": HUMAN + " No"},
    "sharegpt": {
        "conversations": SHAREGPT,
        "chosen": {"from": "gpt", "value": "Yes"},
        "rejected": {"from": "gpt", "value": "No"},
    },
    "columns of roles and contents": {
        "prompt": {"role": ["user", "assistant", "user"], "content": ["Hi", "Hello", "Bye?"]},
        "chosen": "Yes",
        "rejected": "No",
    },
}


@pytest.mark.parametrize("layout", SAME_PAIR)
def test_every_layout_of_one_pair_is_that_pair(layout: str) -> None:
    shaped = shape("pairs", SAME_PAIR[layout])
    assert shaped.items == (Pair(CHAT, "Yes", "No"),)
    assert shaped.repairs == ()


@pytest.mark.parametrize("layout", SAME_PAIR)
def test_a_pair_is_also_a_demo_two_ratings_and_a_prompt(layout: str) -> None:
    raw = SAME_PAIR[layout]
    assert shape("demos", raw).items == (Demo(CHAT, "Yes"),)
    assert shape("ratings", raw).items == (Rating(CHAT, "Yes", 1.0), Rating(CHAT, "No", 0.0))
    assert shape("prompts", raw).items == (CHAT,)


def test_a_plain_pair_with_its_margin() -> None:
    raw = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
    assert shape("pairs", raw).items == (Pair(user("2+2?"), "4", "5"),)
    assert shape("pairs", {**raw, "margin": "1.5"}).items == (Pair(user("2+2?"), "4", "5", 1.5),)
    assert shape("pairs", {**raw, "score_chosen": 9, "score_rejected": 7}).items == (Pair(user("2+2?"), "4", "5", 2.0),)


def test_an_implicit_plain_prompt_is_cut_between_words() -> None:
    shaped = shape("pairs", {"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert shaped.items == (Pair(user("The sky is"), "blue.", "black."),)
    assert shaped.repairs == ()


DEMOS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [*TURNS, A("Yes")]},
    "conversations": {"conversations": [*SHAREGPT, {"from": "gpt", "value": "Yes"}]},
    "prompt and completion": {"prompt": TURNS, "completion": [A("Yes")]},
    "transcript": {"messages": HUMAN + " Yes"},
}


@pytest.mark.parametrize("layout", DEMOS)
def test_every_layout_of_one_demo_is_that_demo(layout: str) -> None:
    raw = DEMOS[layout]
    assert shape("demos", raw).items == (Demo(CHAT, "Yes"),)
    assert shape("prompts", raw).items == (CHAT,)
    assert shape("ratings", {**raw, "label": True}).items == (Rating(CHAT, "Yes", 1.0),)


@pytest.mark.parametrize(
    ("label", "value"), [(True, 1.0), (False, 0.0), (0.25, 0.25), ("false", 0.0), ("1", 1.0), ("True", 1.0)]
)
def test_labels(label: object, value: float) -> None:
    rating = shape("ratings", {"prompt": "a", "completion": "b", "label": label}).items[0]
    assert rating == Rating(user("a"), "b", value)


def test_contrasts_texts_and_prompts() -> None:
    assert shape("contrasts", {"positive": "kind", "negative": [U("cruel")]}).items == (
        Contrast(user("kind"), user("cruel")),
    )
    assert shape("texts", {"text": "a\nb"}).items == ("a\nb",)
    assert shape("prompts", {"prompt": [S("Be brief."), U("Hi")]}).items == (
        (Message("system", "Be brief."), Message("user", "Hi")),
    )


def test_repairs_are_named_and_can_be_left_out() -> None:
    raw = {"prompt": [S("  "), U(" Hi\n")], "completion": "    return x\n"}
    shaped = shape("demos", raw)
    assert shaped.items == (Demo(user("Hi"), "return x"),)
    assert set(shaped.repairs) == {Reason.STRIPPED, Reason.EMPTY_SYSTEM}
    kept = shape("demos", raw, strip=False)
    assert kept.items == (Demo(user(" Hi\n"), "    return x\n"),)
    assert kept.repairs == (Reason.EMPTY_SYSTEM,)


def test_the_layout_is_said() -> None:
    assert shape("pairs", SAME_PAIR["implicit"]).shape == "chosen/rejected, conversational"
    assert shape("pairs", SAME_PAIR["transcripts, implicit"]).shape == "chosen/rejected, transcript"
    assert shape("demos", {"prompt": "a", "completion": "b", "id": 7}).shape == "prompt/completion, plain"


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
REFUSALS: list[tuple[Kind, dict[str, Any], Reason]] = [
    ("pairs", {"prompt": "p", "chosen": "a"}, Reason.MISSING),
    ("pairs", {**PAIR, "rejected": None}, Reason.NO_VALUE),
    ("demos", {"question": "p", "answer": "a"}, Reason.MISSING),
    ("demos", {"prompt": "p"}, Reason.MISSING),
    ("prompts", {"text": "p"}, Reason.MISSING),
    ("ratings", {"prompt": "p", "completion": "a"}, Reason.MISSING),
    ("ratings", {"prompt": "p", "label": 1}, Reason.MISSING),
    ("texts", {"prompt": "p"}, Reason.MISSING),
    ("contrasts", {"positive": "p"}, Reason.MISSING),
    ("pairs", {**PAIR, "chosen": ""}, Reason.EMPTY_REPLY),
    ("pairs", {"prompt": TURNS, "chosen": [A("a")], "rejected": [A(" \n")]}, Reason.EMPTY_REPLY),
    ("pairs", {"chosen": HUMAN, "rejected": HUMAN + " No"}, Reason.EMPTY_REPLY),
    ("pairs", {"chosen": "", "rejected": "No"}, Reason.EMPTY_REPLY),
    ("pairs", {**PAIR, "chosen": " b"}, Reason.SAME),
    ("pairs", {"chosen": [*TURNS, A("a")], "rejected": [*TURNS, A("a")]}, Reason.SAME),
    ("pairs", {"chosen": "one two", "rejected": "one two"}, Reason.SAME),
    ("pairs", {"chosen": "one", "rejected": "two"}, Reason.NO_PROMPT),
    ("pairs", {**PAIR, "prompt": " "}, Reason.NO_PROMPT),
    ("pairs", {"chosen": [A("a")], "rejected": [A("b")]}, Reason.NO_PROMPT),
    ("prompts", {"prompt": [S("Be brief.")]}, Reason.NO_PROMPT),
    ("prompts", {"prompt": []}, Reason.NO_PROMPT),
    ("pairs", {"chosen": [*TURNS, A("a")], "rejected": [U("Hi"), A("b")]}, Reason.DIVERGED),
    ("pairs", {"chosen": [U("x"), A("a")], "rejected": [U("y"), A("b")]}, Reason.DIVERGED),
    (
        "pairs",
        {"prompt": "Hi", "chosen": [U("Hi"), A("a")], "rejected": [S("s"), U("Hi"), A("b")]},
        Reason.DIVERGED,
    ),
    (
        "pairs",
        {"prompt": "other", "chosen": [U("Hi"), A("a")], "rejected": [U("Hi"), A("b")]},
        Reason.PROMPT_DIFFERS,
    ),
    ("pairs", {"prompt": "Hi", "chosen": [U("a")], "rejected": [A("b")]}, Reason.REPLY_ROLE),
    ("demos", {"messages": TURNS}, Reason.REPLY_ROLE),
    ("demos", {"messages": []}, Reason.REPLY_ROLE),
    ("demos", {"messages": [U("a"), U("b"), A("c")]}, Reason.ROLE_ORDER),
    ("demos", {"messages": [A("a"), U("b"), A("c")]}, Reason.ROLE_ORDER),
    ("demos", {"messages": [U("a"), S("b"), A("c")]}, Reason.ROLE_ORDER),
    ("prompts", {"prompt": [U("a"), A("b")]}, Reason.ROLE_ORDER),
    ("pairs", {"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c", "rejected": HUMAN + " d"}, Reason.DIVERGED),
    ("demos", {"messages": [U("a"), A(""), U("b"), A("c")]}, Reason.EMPTY_TURN),
    ("demos", {"messages": [{"role": "narrator", "content": "a"}, A("c")]}, Reason.UNKNOWN_ROLE),
    ("demos", {"messages": [{"content": "a"}, A("c")]}, Reason.UNKNOWN_ROLE),
    ("demos", {"messages": [U([{"type": "text", "text": "a"}]), A("c")]}, Reason.NOT_TEXT),
    ("demos", {"messages": ["a", "b"]}, Reason.NOT_TEXT),
    ("demos", {"prompt": 7, "completion": "b"}, Reason.NOT_TEXT),
    ("demos", {"messages": [U("a"), {**A("c"), "tool_calls": [{"name": "f"}]}]}, Reason.TOOLS),
    ("demos", {"prompt": "a", "completion": "b", "tools": [{"name": "f"}]}, Reason.TOOLS),
    ("demos", {"prompt": "a\0", "completion": "b"}, Reason.NUL),
    ("demos", {"prompt": "a", "completion": "\ud83d"}, Reason.SURROGATE),
    ("ratings", {"prompt": "a", "completion": "b", "label": "good"}, Reason.NOT_A_NUMBER),
    ("ratings", {"prompt": "a", "completion": "b", "label": float("nan")}, Reason.NOT_A_NUMBER),
    ("pairs", {**PAIR, "margin": [1]}, Reason.NOT_A_NUMBER),
    ("pairs", {**PAIR, "score_chosen": 1, "score_rejected": 2}, Reason.NEGATIVE_MARGIN),
    ("lists", {"prompt": "p", "completions": ["a"], "scores": [1]}, Reason.FEW),
    ("lists", {"prompt": "p", "completions": ["a", "b"], "scores": [1]}, Reason.UNEVEN),
    ("lists", {"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}, Reason.TIED),
    ("lists", {"prompt": "p", "completions": ["a", "a"], "scores": [1, 2]}, Reason.TWICE),
    ("texts", {"text": " \n"}, Reason.EMPTY_TEXT),
    ("contrasts", {"positive": "", "negative": "b"}, Reason.EMPTY_TEXT),
]


@pytest.mark.parametrize(("kind", "raw", "reason"), REFUSALS)
def test_each_bad_row_has_its_own_name(kind: Kind, raw: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Refused) as caught:
        shape(kind, raw)
    assert caught.value.reason == reason


def test_every_reason_about_content_is_reached() -> None:
    elsewhere = {Reason.BAD_JSON, Reason.BAD_CSV, Reason.BAD_UTF8, Reason.NOT_AN_OBJECT, Reason.TOO_LONG}
    repairs = {Reason.STRIPPED, Reason.EMPTY_SYSTEM, Reason.OLD_TURNS}
    assert {reason for _, _, reason in REFUSALS} == set(Reason) - elsewhere - repairs


def test_a_missing_column_says_what_there_is_and_what_is_needed() -> None:
    with pytest.raises(Refused, match="found: question, chosen; needed: chosen and rejected"):
        shape("pairs", {"question": "p", "chosen": "a"})


def test_a_turn_may_speak_of_humans() -> None:
    text = "\n\nHuman: What is 'Human: x'?\n\nAssistant: A marker.\nHuman: is one\n\nHuman: Thanks\n\nAssistant: Ok"
    turns = Reader().transcript(text, "chosen")
    assert [turn.role for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[1].content == "A marker.\nHuman: is one"


WORDS = st.lists(st.text("ab \n", min_size=1, max_size=6), min_size=0, max_size=6).map("".join)


@given(WORDS, WORDS, WORDS)
def test_split_then_join_is_the_original(shared: str, left: str, right: str) -> None:
    prompt, chosen, rejected = split_text(shared + left, shared + right)
    assert (prompt + chosen, prompt + rejected) == (shared + left, shared + right)


@given(WORDS, WORDS, WORDS)
def test_the_split_is_the_longest_that_cuts_no_word(shared: str, left: str, right: str) -> None:
    """Against brute force over every place at which the prompt could end."""
    a, b = shared + left, shared + right

    def allowed(cut: int) -> bool:
        inside = a[:cut] == b[:cut] and a[:cut].strip() != "" and not a[cut - 1].isspace()
        return inside and all(t[cut:].strip() and t[cut].isspace() for t in (a, b))

    best = max((cut for cut in range(1, min(len(a), len(b))) if allowed(cut)), default=0)
    assert len(split_text(a, b)[0]) == best


MESSAGE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda t: t == t.strip())


@given(st.lists(MESSAGE.filter(bool), min_size=1, max_size=7), MESSAGE.filter(bool), MESSAGE.filter(bool))
def test_conversations_split_exactly(texts: list[str], yes: str, no: str) -> None:
    texts = texts[: len(texts) - 1 + len(texts) % 2]  # an odd number: the user speaks last
    turns = [(U, A)[number % 2](text) for number, text in enumerate(texts)]
    raw = {"chosen": [*turns, A(yes)], "rejected": [*turns, A(no)]}
    if yes == no:
        with pytest.raises(Refused, match=Reason.SAME):
            shape("pairs", raw)
        return
    pair = shape("pairs", raw).items[0]
    assert isinstance(pair, Pair)
    assert [turn.content for turn in pair.prompt] == texts
    assert (pair.chosen, pair.rejected) == (yes, no)


@given(st.text("ab"), st.text("ab"))
def test_common_is_the_longest_shared_beginning(left: str, right: str) -> None:
    n = common(left, right)
    assert left[:n] == right[:n]
    assert n == min(len(left), len(right)) or left[n] != right[n]
