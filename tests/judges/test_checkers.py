"""Every checker: what passes, what fails, and the edges that tell one reading from another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truing.judges.checkers import KINDS
from truing.judges.checkers.text import bare, bullets, occurrences, paragraphs, sentences, words

Settings = dict[str, object]
# kind, settings, reply, whether it is met. Each kind stands here at least once with each outcome.
CASES: list[tuple[str, Settings, str, bool]] = [
    ("max_words", {"count": 3}, "one well-known - word", True),
    ("max_words", {"count": 3}, "one two three four", False),
    ("min_words", {"count": 3}, "one, two, three", True),
    ("min_words", {"count": 3}, "one - two", False),
    ("exact_words", {"count": 2}, "Good morning!", True),
    ("exact_words", {"count": 2}, "Good", False),
    ("exact_words", {"count": 2}, "Good morning all", False),
    ("word_range", {"low": 2, "high": 3}, "two words", True),
    ("word_range", {"low": 2, "high": 3}, "three words here", True),
    ("word_range", {"low": 2, "high": 3}, "one", False),
    ("word_range", {"low": 2, "high": 3}, "that is four words", False),
    ("max_sentences", {"count": 1}, "It costs 3.50 euros, e.g. at Dr. Hall's.", True),
    ("max_sentences", {"count": 1}, "It rains. It pours.", False),
    ("exact_sentences", {"count": 2}, 'He said "Stop!" Then he left...', True),
    ("exact_sentences", {"count": 2}, "It rains", False),
    ("exact_sentences", {"count": 2}, "1. Wake up.\n2. Get up.", True),
    ("exact_sentences", {"count": 2}, "A heading\nIt rains.", True),
    ("exact_sentences", {"count": 2}, "One. Two. Three.", False),
    ("max_characters", {"count": 5}, "  hello  ", True),
    ("max_characters", {"count": 5}, "hello!", False),
    ("exact_lines", {"count": 2}, "one\n\ntwo\n", True),
    ("exact_lines", {"count": 2}, "one", False),
    ("exact_paragraphs", {"count": 2}, "one\nstill one\n \ntwo", True),
    ("exact_paragraphs", {"count": 2}, "one\ntwo", False),
    ("short_words", {"letters": 4}, "It's so wet, no?", True),
    ("short_words", {"letters": 4}, "It is raining", False),
    ("keywords", {"words": ["river", "old stone"]}, "An OLD\nstone by the River.", True),
    ("keywords", {"words": ["river", "stone"]}, "stones by the river", False),
    ("any_keyword", {"words": ["sun", "moon"]}, "The moon rose.", True),
    ("any_keyword", {"words": ["sun", "moon"]}, "A sunny day.", False),
    ("forbidden", {"words": ["the"]}, "Then there was another.", True),
    ("forbidden", {"words": ["the"]}, "The end", False),
    ("keyword_frequency", {"word": "cat", "low": 2}, "Cat meets cat.", True),
    ("keyword_frequency", {"word": "cat", "low": 2}, "One cat, many cats.", False),
    ("keyword_frequency", {"word": "cat", "high": 1}, "Cat meets cat.", False),
    ("contains", {"text": "Planet Earth"}, "Hello, Planet Earth!", True),
    ("contains", {"text": "Planet Earth"}, "Hello, planet earth!", False),
    ("starts_with", {"text": "Dear Ann"}, " Dear Ann, hello", True),
    ("starts_with", {"text": "Dear Ann"}, "Dear Anna, hello", False),
    ("starts_with", {"text": "Dear Ann"}, "Hello. Dear Ann", False),
    ("ends_with", {"text": "the end."}, "So this is the end. ", True),
    ("ends_with", {"text": "the end."}, "So this is the end", False),
    ("ends_with", {"text": "end."}, "a good friend. At weekend.", False),
    ("first_word", {"word": "Honestly"}, '"honestly, no', True),
    ("first_word", {"word": "Honestly"}, "Quite honestly", False),
    ("last_word", {"word": "sea"}, "Down to the Sea.", True),
    ("last_word", {"word": "sea"}, "the sea below", False),
    ("choice", {"options": ["yes", "no"]}, "Yes.", True),
    ("choice", {"options": ["yes", "no"]}, "Yes, it is.", False),
    ("distinct_words", {}, "All words differ here.", True),
    ("distinct_words", {}, "The dog, the cat", False),
    ("lowercase", {}, "all small, 24 h", True),
    ("lowercase", {}, "Not small", False),
    ("lowercase", {}, "1234", False),
    ("uppercase", {}, "WET FLOOR!", True),
    ("uppercase", {}, "WET floor", False),
    ("capital_words", {"low": 1}, "This is NOT it", True),
    ("capital_words", {"low": 1}, "I am A1", False),
    ("capital_words", {"high": 1}, "NOT HERE", False),
    ("no_commas", {}, "Red; green and blue", True),
    ("no_commas", {}, "Red, green", False),
    ("no_exclamations", {}, "Calm.", True),
    ("no_exclamations", {}, "Hey!", False),
    ("exclamation", {}, 'She cried "Go!"', True),
    ("exclamation", {}, "Go! Now.", False),
    ("question", {}, "Why? Who knows?", True),
    ("question", {}, "Why? Because.", False),
    ("contains_number", {}, "At 7 sharp", True),
    ("contains_number", {}, "At seven", False),
    ("no_digits", {}, "At seven", True),
    ("no_digits", {}, "At 7", False),
    ("letter_frequency", {"letter": "e", "high": 0}, "A short string", True),
    ("letter_frequency", {"letter": "e", "high": 0}, "Eve", False),
    ("letter_frequency", {"letter": "E", "low": 2}, "eve", True),
    ("quotation", {}, '"All of it."', True),
    ("quotation", {}, "“All of it.”", True),
    ("quotation", {}, '"One" and "two"', False),
    ("parenthesis", {}, "A hat (of straw)", True),
    ("parenthesis", {}, "A hat ( )", False),
    ("emoji", {}, "Well done 🎉", True),
    ("emoji", {}, "20 °C © :-)", False),
    ("exact_bullets", {"count": 2}, "- one\n* two", True),
    ("exact_bullets", {"count": 2}, "- one\n- two\n- three", False),
    ("exact_bullets", {"count": 2, "mark": "-"}, "Here:\n- one\n- two", True),
    ("exact_bullets", {"count": 2, "mark": "-"}, "- one\n* two", False),
    ("exact_bullets", {"count": 1}, "-one", False),
    ("min_bullets", {"count": 2}, "- one\n- two\n- three", True),
    ("min_bullets", {"count": 2, "mark": "*"}, "- one\n* two", False),
    ("numbered_list", {"count": 2}, "Do this:\n1. one\n2) two", True),
    ("numbered_list", {"count": 2}, "1. one\n3. two", False),
    ("numbered_list", {"count": 2}, "1. one\n2. two\n3. three", False),
    ("comma_list", {"count": 3}, "red, green, and blue", True),
    ("comma_list", {"count": 3}, "red, green,", False),
    ("comma_list", {"count": 3}, "red,\ngreen, blue", False),
    ("json", {"keys": ["name"]}, '{"name": "Mina", "age": 9}', True),
    ("json", {"keys": ["name"]}, '```json\n{"name": 1}\n```', True),
    ("json", {"keys": ["name"]}, '{"age": 9}', False),
    ("json", {}, '["name"]', False),
    ("json", {}, 'Here: {"name": 1}', False),
    ("json", {}, '{"name": NaN}', False),
    ("json", {}, '{"a":' * 100_000, False),
    ("title", {}, "<<The Sea>>\nA story.", True),
    ("title", {}, "<The Sea> << >>", False),
    ("heading", {}, "## News\ntext", True),
    ("heading", {}, "#News", False),
    ("highlighted", {"count": 2}, "a *soft* and **warm** scarf", True),
    ("highlighted", {"count": 2}, "a *soft* scarf * 2 * 3", False),
    ("postscript", {}, "Thanks!\n\nP.S. Bring cake.", True),
    ("postscript", {}, "Thanks!\nP.S.", False),
    ("postscript", {"marker": "PS"}, "Bye. PS: cake", True),
    ("sections", {"count": 2}, "Section 1\nmix\n**Section 2**: bake", True),
    ("sections", {"count": 2}, "Section 2\nbake\nSection 1\nmix", False),
    ("two_parts", {}, "one\n***\ntwo", True),
    ("two_parts", {}, "one\n***\n", False),
    ("two_parts", {}, "one***two***three", False),
    ("placeholders", {"count": 2}, "Dear [name], see you on [date].", True),
    ("placeholders", {"count": 2}, "Dear [name], []", False),
]


@pytest.mark.parametrize(("kind", "settings", "reply", "met"), CASES)
def test_a_checker_says_what_the_prompt_means(kind: str, settings: Settings, reply: str, met: bool) -> None:
    assert KINDS[kind](reply, **settings) is met


def test_every_kind_has_a_reply_that_passes_and_one_that_fails() -> None:
    seen = {(kind, met) for kind, _, _, met in CASES}
    assert seen == {(kind, met) for kind in KINDS for met in (True, False)}
    assert len(KINDS) >= 25


@pytest.mark.parametrize("empty", ["", " \n\t ", "...", '""', "- \n- \n", "***"])
def test_an_empty_reply_satisfies_nothing(empty: str) -> None:
    """Otherwise the best answer to "use no commas" would be no answer."""
    passed = [kind for kind, settings, _, met in CASES if met and KINDS[kind](empty, **settings)]
    assert passed == []


@given(st.text(max_size=80))
def test_no_checker_fails_on_any_text(reply: str) -> None:
    for kind, settings, _, _ in CASES:
        assert KINDS[kind](reply, **settings) in (True, False)


@given(st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=12))
def test_counts_agree_with_how_the_text_was_made(made: list[str]) -> None:
    assert words(" ".join(made)) == made
    assert len(sentences(". ".join(made) + ".")) == len(made)
    assert bullets("\n".join(f"- {word}" for word in made)) == [("-", word) for word in made]
    assert paragraphs("\n\n".join(made)) == made
    assert occurrences(" ".join(made), made[0]) == made.count(made[0])
    assert bare(f'*"{made[0].title()}!"*') == made[0]
