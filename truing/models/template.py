"""From chats to tokens: what a tokenizer's template says, checked once, and a plain one where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from truing.core.errors import bad
from truing.core.policy import Chat, Draw, Message, Reply

PLAIN = {"system": "# Instruction", "user": "# Query", "assistant": "# Answer", "tool": "# Tool"}
BATCH = 1024
"""Texts that are tokenised in one call: what a tokenizer returns beside the ids is larger than they are."""


@dataclass(frozen=True)
class Template:
    """How a tokenizer writes a conversation.

    A prompt is everything up to where the reply begins, the assistant's header included. A reply is its own tokens
    and the end of turn. The two are tokenised apart, so a prompt's tokens never depend on the reply.

    Attributes:
        tokenizer: of transformers.
        name: for messages.
    """

    tokenizer: Any
    name: str = "model"

    @cached_property
    def has_chat(self) -> bool:
        """Whether the tokenizer brings a template of its own."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def end_of_turn(self) -> str:
        """The text that ends an assistant's turn.

        Raises:
            InputError: the template does not write a prompt as a prefix of prompt and reply.
        """
        if not self.has_chat:
            return str(self.tokenizer.eos_token or "")
        probe = (Message("user", "ping"),)
        before = self.render(probe)
        whole = self._apply((*probe, Message("assistant", "pong")), reply_next=False)
        if not whole.startswith(before + "pong"):
            raise bad(
                self.name,
                "its chat template does not write a prompt as a prefix of prompt and reply",
                "Set tokenizer.chat_template to one that ends a prompt exactly where the reply begins.",
            )
        tail = whole[len(before) + len("pong") :]
        special = [token for token in self._special if tail.strip().startswith(token)]
        if not special:  # white space is no mark of an end: replies hold it too
            return tail if tail.strip() else str(self.tokenizer.eos_token or "")
        longest = max(special, key=len)
        return tail[: tail.index(longest) + len(longest)]

    @cached_property
    def _special(self) -> frozenset[str]:
        """Special tokens, those too that stand in no named place such as ``eos_token``."""
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(self.tokenizer.all_special_tokens) | {token.content for token in added if token.special}

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""
        ids = self.tokenizer(self.end_of_turn, add_special_tokens=False).input_ids if self.end_of_turn else []
        known = {ids[-1]} if ids and self.tokenizer.convert_ids_to_tokens(ids[-1]) in self._special else set()
        return frozenset(known | {i for i in (self.tokenizer.eos_token_id,) if i is not None})

    @cached_property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end a reply of a model without turns of its own, or whose turns end in plain text."""
        if not self.has_chat:
            return ("\n# Query", "\n# Instruction")
        end = self.end_of_turn.strip()
        return (end,) if end and not any(token in end for token in self._special) else ()

    def render(self, chat: Chat) -> str:
        """The prompt as text. The empty chat is bare text: nothing but what begins a document."""
        if not chat:
            return ""
        if chat[-1].role == "assistant":
            # A prefilled reply: go on from its text.
            return self.render(chat[:-1]) + chat[-1].content
        return self._apply(chat, reply_next=True)

    def _apply(self, chat: Chat, *, reply_next: bool) -> str:
        if self.has_chat:
            rows = [{"role": message.role, "content": message.content} for message in chat]
            from jinja2 import TemplateError

            try:
                text: str = self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=reply_next)
            except TemplateError as error:
                roles = ", ".join(message.role for message in chat)
                mend = "Leave out the turns that it does not know, or set another chat template."
                raise bad(self.name, f"its chat template refuses the turns {roles}: {error}", mend) from error
            return text
        turns = [f"{PLAIN.get(m.role, '# ' + m.role)}\n{m.content}\n\n" for m in chat]
        return "".join(turns) + (f"{PLAIN['assistant']}\n" if reply_next else "")

    def prompts(self, chats: Sequence[Chat]) -> list[tuple[int, ...]]:
        """Token ids of prompts, each at least one token; every different chat is rendered and tokenised once."""
        unique = list(dict.fromkeys(chats))
        filled = [chat for chat in unique if chat]
        texts = [self.render(chat) for chat in filled]
        # A template writes its own special tokens; plain text gets those that the tokenizer adds.
        ids = self._ids(texts, special=not self.has_chat) if texts else []
        found = dict(zip(filled, ids, strict=True))
        found[()] = (self._first,)
        return [found[chat] for chat in chats]

    @property
    def _first(self) -> int:
        tokens = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = next((token for token in tokens if token is not None), None)
        if found is None:
            raise bad(self.name, "its tokenizer has neither a first nor a last token", "Set tokenizer.bos_token.")
        return int(found)

    def replies(self, replies: Sequence[Reply], *, bare: Sequence[bool]) -> list[tuple[int, ...]]:
        """Token ids of replies: a draw's own, a text's with the end of turn (without where ``bare``)."""
        texts = [
            reply + ("" if alone else self.end_of_turn)
            for reply, alone in zip(replies, bare, strict=True)
            if isinstance(reply, str)
        ]
        ids = iter(self._ids(texts) if texts else [])
        return [next(ids) if isinstance(reply, str) else self._drawn(reply) for reply in replies]

    def _drawn(self, draw: Draw) -> tuple[int, ...]:
        if draw.token_ids:
            return draw.token_ids
        return self._ids([draw.text + self.end_of_turn])[0]

    @cached_property
    def _integers(self) -> dict[int, int]:
        """One object a token id: 8 bytes a token where each would else bring an integer of its own, 36."""
        return {}

    def _ids(self, texts: Sequence[str], *, special: bool = False) -> list[tuple[int, ...]]:
        """Some texts at a time. Not verbose: a text longer than the context is the data contract's business."""
        shared, found = self._integers, list[tuple[int, ...]]()
        how = {"add_special_tokens": special, "verbose": False, "return_attention_mask": False}
        for begin in range(0, len(texts), BATCH):
            encoded = self.tokenizer(list(texts[begin : begin + BATCH]), **how).input_ids
            found += [tuple([shared.setdefault(i, i) for i in ids]) for ids in encoded]
        return found

    def lengths(self, chats: Sequence[Chat], replies: Sequence[Sequence[Reply]]) -> list[tuple[int, tuple[int, ...]]]:
        """Tokens of each prompt and of each of its replies; prompts in one call, replies in another."""
        flat = [reply for group in replies for reply in group]
        bare = [not chat for chat, group in zip(chats, replies, strict=True) for _ in group]
        sizes = iter([len(ids) for ids in self.replies(flat, bare=bare)])
        prompts = self.prompts(chats)
        return [(len(p), tuple(next(sizes) for _ in group)) for p, group in zip(prompts, replies, strict=True)]
