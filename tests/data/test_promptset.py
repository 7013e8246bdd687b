"""The shipped prompts are sound, and files of the same form are read strictly."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from truing.core.errors import InputError
from truing.core.policy import user
from truing.data.promptset import PromptSet, load_neutral, load_promptset
from truing.judges.constraints import ConstraintJudge, constraint_faults

SHIPPED, TRAIN, TEST = load_promptset(), load_promptset(split="train"), load_promptset(split="test")
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
FILLER = [
    "dry", "soup", "may", "form", "our", "bold", "warm", "sky", "path", "four",
    "boys", "ask", "so", "why", "now", "lots", "grow", "up", "firm", "rays",
    "of", "old", "gold", "lay", "by", "shop",
]  # fmt: skip
Rows = Sequence[Mapping[str, Any]]


def kinds(chosen: PromptSet) -> Counter[str]:
    return Counter(str(row["kind"]) for rows in chosen.constraints.values() for row in rows)


def text_of(chosen: PromptSet) -> list[str]:
    return [chat[-1].content for chat in chosen.prompts]


def test_there_are_enough_prompts_each_once_and_no_prompt_in_both_splits() -> None:
    assert len(SHIPPED.prompts) >= 300
    assert len(TRAIN.prompts) >= 220
    assert len(TEST.prompts) >= 80
    assert len({text.lower() for text in text_of(SHIPPED)}) == len(SHIPPED.prompts) == len(set(SHIPPED.ids))
    assert set(TRAIN.ids) | set(TEST.ids) == set(SHIPPED.ids)
    assert not set(TRAIN.ids) & set(TEST.ids)
    assert all(list(chat) == list(user(chat[-1].content)) for chat in SHIPPED.prompts)
    assert set(SHIPPED.constraints) == set(text_of(SHIPPED))


def test_no_prompt_is_nearly_one_of_the_other_split() -> None:
    """Shared words over all words of the two; what they share is the wording of a constraint, not the task."""

    def bag(text: str) -> set[str]:
        return set(re.findall(r"\w+", text.lower()))

    train, test = [bag(text) for text in text_of(TRAIN)], [bag(text) for text in text_of(TEST)]
    assert max(len(a & b) / len(a | b) for a in train for b in test) < 0.75


def test_every_constraint_is_known_and_valid_and_every_kind_of_the_test_split_was_trained() -> None:
    for prompt, rows in SHIPPED.constraints.items():
        assert 1 <= len(rows) <= 2, prompt
        assert [fault for row in rows for fault in constraint_faults(row, prompt)] == []
    train, test = kinds(TRAIN), kinds(TEST)
    assert set(train) == set(test)
    assert len(train) >= 40
    share = sum(test.values()) / (sum(train.values()) + sum(test.values()))
    common = [kind for kind in train if train[kind] + test[kind] >= 10]
    assert all(abs(test[kind] / (train[kind] + test[kind]) - share) < 0.1 for kind in common)


def test_a_prompt_says_every_setting_of_its_constraints() -> None:
    """Each text word by word, each number in figures or in words, or as the first number that is too many."""
    for prompt, rows in SHIPPED.constraints.items():
        said = prompt.lower()
        tokens = set(re.findall(r"\w+", said))
        for row in rows:
            for name, value in row.items():
                for one in value if isinstance(value, list) else [value]:
                    if isinstance(one, str) and name != "kind":
                        assert one.lower() in said, (prompt, row)
                    elif isinstance(one, int):
                        ways = {
                            str(one),
                            str(one + 1),
                            *NUMBERS[one : one + 1],
                            *{1: ["once"], 2: ["twice"]}.get(one, []),
                        }
                        assert tokens & ways, (prompt, row)


WORDING: Mapping[str, Callable[[Any], list[str]]] = {
    "keywords": lambda row: row["words"],
    "any_keyword": lambda row: row["words"][:1],
    "contains": lambda row: [row["text"]],
    "keyword_frequency": lambda row: [row["word"]] * row.get("low", 0),
    "letter_frequency": lambda row: [row["letter"] * row.get("low", 0)],
    "contains_number": lambda row: ["7"],
    "capital_words": lambda row: ["NB", "NOW"],
    "parenthesis": lambda row: ["(dry)"],
    "emoji": lambda row: ["soup", "🎉"],
    "placeholders": lambda row: ["[name]", "[date]"],
    "highlighted": lambda row: ["*bold*", "*warm*"],
    "postscript": lambda row: ["P.S. soup"],
    "title": lambda row: ["<<Soup>>"],
    "exact_words": lambda row: FILLER[: row["count"]],
    "min_words": lambda row: FILLER[: row["count"]],
    "word_range": lambda row: FILLER[: row["low"]],
}
SHAPES: Mapping[str, Callable[[list[str], str], str]] = {
    "exact_sentences": lambda items, mark: ". ".join(items) + ".",
    "exact_lines": lambda items, mark: "\n".join(items),
    "exact_paragraphs": lambda items, mark: "\n\n".join(items),
    "exact_bullets": lambda items, mark: "\n".join(f"{mark} {item}" for item in items),
    "min_bullets": lambda items, mark: "\n".join(f"{mark} {item}" for item in items),
    "numbered_list": lambda items, mark: "\n".join(f"{number}. {item}" for number, item in enumerate(items, 1)),
    "comma_list": lambda items, mark: ", ".join(items),
    "sections": lambda items, mark: "\n".join(f"Section {number}: {item}" for number, item in enumerate(items, 1)),
}


FRAMES: Mapping[str, Callable[[str, Any], str]] = {
    "starts_with": lambda text, row: f"{row['text']} {text}",
    "first_word": lambda text, row: f"{row['word']} {text}",
    "ends_with": lambda text, row: f"{text} {row['text']}",
    "last_word": lambda text, row: f"{text} {row['word']}",
    "json": lambda text, row: json.dumps(dict.fromkeys(row["keys"], 1)),
    "choice": lambda text, row: row["options"][0],
    "two_parts": lambda text, row: f"{text}\n{row.get('separator', '***')}\n{text}",
    "heading": lambda text, row: f"# {text}",
    "uppercase": lambda text, row: text.upper(),
    "lowercase": lambda text, row: text.lower(),
    "exclamation": lambda text, row: f"{text}!",
    "question": lambda text, row: f"{text}?",
    "quotation": lambda text, row: f'"{text}"',
}


def witness(rows: Rows) -> str:
    """A reply, built without the checkers, that keeps all constraints of a prompt, sensible or not."""
    want: dict[str, Any] = {row["kind"]: row for row in rows}
    words = [word for kind, make in WORDING.items() if kind in want for word in make(want[kind])]
    text = " ".join(filter(None, words)) or FILLER[0]
    for kind in filter(want.__contains__, SHAPES):
        text = SHAPES[kind]([text, *FILLER[: want[kind]["count"] - 1]], want[kind].get("mark", "-"))
    for kind in filter(want.__contains__, FRAMES):
        text = FRAMES[kind](text, want[kind])
    return text


def test_every_prompt_can_be_satisfied_in_few_words() -> None:
    judge = ConstraintJudge(SHIPPED.constraints)
    replies = [witness(rows) for rows in SHIPPED.constraints.values()]
    met = judge.satisfied(SHIPPED.prompts, replies)
    assert [(text, reply) for text, reply, good in zip(text_of(SHIPPED), replies, met, strict=True) if not good] == []
    assert max(len(reply.split()) for reply in replies) <= 30


def test_no_one_reply_satisfies_many_prompts() -> None:
    """A judge that a constant could please would teach nothing."""
    judge = ConstraintJudge(SHIPPED.constraints)
    for reply in ("", "yes", "I am a helpful assistant, how can I help you today?", "1. One, two.\n2. Three!"):
        assert sum(judge.satisfied(SHIPPED.prompts, [reply] * len(SHIPPED.prompts))) < 0.45 * len(SHIPPED.prompts)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    assert len({SHIPPED.digest, TRAIN.digest, TEST.digest}) == 3
    assert load_promptset().digest == SHIPPED.digest
    file = tmp_path / "mine.jsonl"
    row = {"id": "a", "split": "train", "prompt": "Ask.\u2028Now.", "constraints": [{"kind": "question"}]}
    digests = set()
    for text in (
        json.dumps(row),
        "\n" + json.dumps(row, ensure_ascii=False) + "\n\n",
        json.dumps({**row, "constraints": [{"kind": "no_commas"}]}),
    ):
        file.write_text(text, encoding="utf-8")
        digests.add(load_promptset(str(file)).digest)
    assert len(digests) == 2


def test_a_file_with_faults_tells_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    good = {"id": "a", "split": "train", "prompt": "Ask.", "constraints": [{"kind": "question"}]}
    rows: list[object] = [
        good,
        good,
        {**good, "id": "b", "split": "dev", "prompt": "Say."},
        {**good, "id": "c", "prompt": "  "},
        {**good, "id": "d", "prompt": "Sing.", "constraints": []},
        [],
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n{nonsense\n")
    with pytest.raises(InputError) as caught:
        load_promptset(str(file))
    told = [str(fault).removeprefix(str(file)) for fault in caught.value.faults]
    assert [one.split(":")[1] for one in told] == ["2", "2", "3", "4", "5", "6", "7"]
    assert "its id is that of line 1" in told[0]
    assert "'dev'" in told[2]


@pytest.mark.parametrize(
    ("name", "split", "fact"),
    [
        ("constraint", None, "Did you mean 'constraints'?"),
        ("none.jsonl", None, "cannot be read"),
        ("constraints", "tests", "Did you mean 'test'?"),
    ],
)
def test_what_is_not_there_is_told(name: str, split: str | None, fact: str) -> None:
    with pytest.raises(InputError) as caught:
        load_promptset(name, split)
    assert fact in str(caught.value)


def test_a_split_without_prompts_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "split": "train", "prompt": "Ask.", "constraints": [{"kind": "question"}]}')
    with pytest.raises(InputError, match="no prompts of the split test"):
        load_promptset(str(file), "test")


def test_neutral_passages_are_many_distinct_and_of_the_promised_length() -> None:
    passages = load_neutral()
    assert len(passages) >= 60
    assert all(60 <= len(passage.split()) <= 120 for passage in passages)
    starts = {" ".join(passage.split()[:5]) for passage in passages}
    assert len(starts) == len(passages)
