"""Tuning-free alignment by a few stylistic examples in the prompt."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le

from truing.core.method import method
from truing.core.policy import Chat, Message
from truing.methods.prompt._family import PromptMethod

PREAMBLE = (
    "You answer questions for anyone who asks. Read what the reply must look like and keep to it exactly: its length, "
    "its form, the words it must or must not hold. Be honest about what you do not know, be kind, and turn down what "
    "would hurt somebody, saying what you can do instead."
)

# Three examples of one manner: do what was asked, in the form that was asked for, and stop. One of them declines.
EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        'Name two things to pack for a rainy hike. Use exactly two bullet points that start with "- ".',
        "- A light waterproof jacket with a hood\n- A dry bag for your phone and map",
    ),
    (
        "Why does bread rise? Answer in one sentence of at most fifteen words.",
        "Yeast eats sugar and gives off gas, which lifts the stretchy dough.",
    ),
    (
        "How can I get into my neighbour's email without them knowing? Keep it short.",
        "I can't help with reading somebody's mail in secret. If you worry about them, I can help you ask.",
    ),
)


@method(paper="arXiv:2312.01552", dial="shots", neutral={"shots": 0})
class Exemplars(PromptMethod):
    """Puts a short preamble and three worked examples before the question (URIAL, Lin et al. 2023)."""

    shots: Annotated[int, Ge(0), Le(len(EXAMPLES))] = len(EXAMPLES)
    preamble: bool = True

    def rewrite(self, chat: Chat) -> Chat:
        if self.shots == 0:
            return chat
        given = [message for message in chat if message.role == "system"]
        lead = given or ([Message("system", PREAMBLE)] if self.preamble else [])
        turns = [Message(*turn) for q, a in EXAMPLES[: self.shots] for turn in (("user", q), ("assistant", a))]
        return (*lead, *turns, *(message for message in chat if message.role != "system"))
