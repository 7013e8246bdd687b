"""Chat templates: where a prompt ends, what ends a reply, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny import make_tokenizer

from truing.core.errors import InputError
from truing.core.policy import Draw, Message, user
from truing.models.template import Template

CHAT = (Message("system", "be kind"), Message("user", "hi"), Message("assistant", "yes?"), Message("user", "the end"))
BARE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}END{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def with_end(end: str) -> Template:
    """A template whose assistant turns end so."""
    return Template(make_tokenizer(BARE.replace("END", f"{{{{ {json.dumps(end)} }}}}")), "tiny")


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def test_a_conversation_is_written_as_the_template_says(tokenizer: Any) -> None:
    template = Template(tokenizer)
    text = "<turn>system\nbe kind<end>\n<turn>user\nhi<end>\n<turn>assistant\nyes?<end>\n<turn>user\nthe end<end>\n"
    text += "<turn>assistant\n"
    assert template.render(CHAT) == text
    assert template.prompts([CHAT]) == [ids(tokenizer, text)]
    assert tokenizer.decode(template.prompts([CHAT])[0]) == text  # no second beginning in front of it


def test_a_prefilled_reply_is_gone_on_from(tokenizer: Any) -> None:
    template = Template(tokenizer)
    assert template.render((*user("hi"), Message("assistant", "well,"))) == template.render(user("hi")) + "well,"


@pytest.mark.parametrize(
    ("end", "found", "stops"),
    [
        ("<end>\n", "<end>", {"<end>"}),
        ("\n<end>", "\n<end>", {"<end>"}),
        ("<turn>\n", "<turn>", {"<turn>", "<end>"}),  # special, though in no named place of the tokenizer
        ("", "<end>", {"<end>"}),
        ("\n", "<end>", {"<end>"}),  # white space ends nothing
        (" END.\n", " END.\n", {"<end>"}),
    ],
)
def test_what_ends_a_turn(end: str, found: str, stops: set[str]) -> None:
    template = with_end(end)
    assert template.end_of_turn == found
    assert {template.tokenizer.convert_ids_to_tokens(i) for i in template.stop_ids} == stops


def test_an_end_in_plain_text_is_looked_for_in_the_text() -> None:
    assert with_end(" END.\n").stop_texts == ("END.",)
    assert with_end("<end>\n").stop_texts == with_end("\n").stop_texts == ()


def test_replies_end_their_turn_but_bare_text_does_not(tokenizer: Any) -> None:
    template = Template(tokenizer)
    found = template.replies(["the", Draw("the", (5, 6)), Draw("the"), "the"], bare=[False, False, False, True])
    assert found == [ids(tokenizer, "the<end>"), (5, 6), ids(tokenizer, "the<end>"), ids(tokenizer, "the")]
    assert template.replies([], bare=[]) == []


@pytest.mark.parametrize(
    "text",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
        "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    ],
    ids=["header missing", "counts turns", "changes replies"],
)
def test_a_template_whose_prompt_is_no_prefix_is_refused(text: str) -> None:
    template = Template(make_tokenizer(text), "odd-model")
    with pytest.raises(InputError, match=r"odd-model: its chat template does not write a prompt as a prefix .* Set"):
        _ = template.end_of_turn


def test_a_conversation_that_the_template_refuses_is_told() -> None:
    text = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + BARE
    template = Template(make_tokenizer(text), "strict-model")
    with pytest.raises(InputError, match=r"strict-model: .* refuses the turns system, user.*no system role"):
        template.prompts([CHAT])
    assert template.prompts([user("hi")])


class TestWithoutTemplate:
    @pytest.fixture
    def template(self) -> Template:
        return Template(make_tokenizer(None))

    def test_turns_are_headed(self, template: Template) -> None:
        assert template.render(CHAT[:2]) == "# Instruction\nbe kind\n\n# Query\nhi\n\n# Answer\n"
        assert not template.has_chat

    def test_a_reply_ends_with_the_tokenizers_end(self, template: Template) -> None:
        assert template.end_of_turn == "<end>"
        assert template.stop_ids == {2}
        assert template.stop_texts == ("\n# Query", "\n# Instruction")

    def test_a_tokenizer_without_an_end(self, template: Template) -> None:
        template.tokenizer.eos_token = None
        assert template.end_of_turn == ""
        assert template.stop_ids == frozenset()
        assert template.prompts([()]) == [(1,)]
        template.tokenizer.bos_token = None
        with pytest.raises(InputError, match="neither a first nor a last token"):
            template.prompts([()])


def test_many_prompts_are_each_rendered_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template, seen = Template(tokenizer), []
    inner = Template.render
    monkeypatch.setattr(Template, "render", lambda self, chat: seen.append(chat) or inner(self, chat))
    chats = [user("a"), user("b"), (), user("a")]
    found = template.prompts(chats)
    assert seen == [user("a"), user("b")]
    assert found == [template.prompts([chat])[0] for chat in chats]
    assert template.prompts([]) == []


def test_lengths_are_those_of_the_tokens(tokenizer: Any) -> None:
    template = Template(tokenizer)
    groups = [["the", "in the end"], [], [Draw("x", (4, 5, 6))]]
    chats = [user("a"), CHAT, ()]
    assert template.lengths(chats, groups) == [
        (len(template.prompts([chat])[0]), tuple(len(template.replies([r], bare=[not chat])[0]) for r in group))
        for chat, group in zip(chats, groups, strict=True)
    ]
