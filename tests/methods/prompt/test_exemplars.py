"""What the policy behind is asked: the preamble, the examples, and the question last, untouched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from truing.core.errors import InputError
from truing.core.evidence import Evidence
from truing.core.policy import Chat, Draw, Message, Policy, Sampling, Scorable, user
from truing.core.rng import Rng
from truing.core.run import Run
from truing.methods.prompt.exemplars import EXAMPLES, PREAMBLE, Exemplars
from truing.models.local import Local
from truing.models.tabular import Tabular

QUESTION = user("How tall is a door?")
LONG: Chat = (Message("user", "Hi."), Message("assistant", "Hello."), Message("user", "And a window?"))
ORDERS: Chat = (Message("system", "Answer in French."), Message("user", "How tall is a door?"))


class Listener(Policy):
    """Keeps what it was asked, and says the last turn again."""

    def __init__(self) -> None:
        self.asked: list[Chat] = []

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        self.asked += chats
        return [[Draw(chat[-1].content if chat else "")] * n for chat in chats]

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        return "listener"


def prompted(base: Policy, method: Exemplars | None = None) -> Policy:
    return (method or Exemplars())(base, Evidence(), Run())


def roles(chat: Chat) -> list[str]:
    return [message.role for message in chat]


class TestRewriting:
    @pytest.mark.parametrize("shots", range(1, len(EXAMPLES) + 1))
    @pytest.mark.parametrize("chat", [QUESTION, LONG])
    def test_preamble_then_examples_then_the_chat_as_it_was(self, shots: int, chat: Chat) -> None:
        asked = Exemplars(shots=shots).rewrite(chat)
        assert asked[0] == Message("system", PREAMBLE)
        shown = asked[1 : 1 + 2 * shots]
        assert roles(shown) == ["user", "assistant"] * shots
        assert [(q.content, a.content) for q, a in zip(shown[::2], shown[1::2], strict=True)] == list(EXAMPLES[:shots])
        assert asked[1 + 2 * shots :] == chat

    @pytest.mark.parametrize("chat", [QUESTION, LONG, ORDERS])
    @pytest.mark.parametrize("preamble", [True, False])
    def test_turns_alternate_and_the_question_is_the_last(self, chat: Chat, preamble: bool) -> None:
        asked = Exemplars(preamble=preamble).rewrite(chat)
        assert asked[-1] == chat[-1]
        spoken = [role for role in roles(asked) if role != "system"]
        assert spoken == [("user", "assistant")[k % 2] for k in range(len(spoken))]

    def test_no_shots_change_nothing(self) -> None:
        for chat in (QUESTION, LONG, ORDERS, ()):
            assert Exemplars(shots=0).rewrite(chat) == chat

    @pytest.mark.parametrize("preamble", [True, False])
    def test_a_given_system_prompt_stands_alone_and_first(self, preamble: bool) -> None:
        asked = Exemplars(preamble=preamble).rewrite(ORDERS)
        assert asked[0] == ORDERS[0]
        assert roles(asked).count("system") == 1
        assert all(PREAMBLE not in message.content for message in asked)

    def test_without_the_preamble_the_examples_come_first(self) -> None:
        asked = Exemplars(preamble=False, shots=1).rewrite(QUESTION)
        assert [message.content for message in asked] == [*EXAMPLES[0], QUESTION[0].content]
        assert "system" not in roles(asked)

    @pytest.mark.parametrize("shots", [-1, len(EXAMPLES) + 1])
    def test_as_many_shots_as_there_are(self, shots: int) -> None:
        with pytest.raises(InputError, match="shots"):
            Exemplars(shots=shots)


class TestThePolicy:
    def test_every_chat_is_rewritten_and_bare_text_is_not(self) -> None:
        listener, method = Listener(), Exemplars()
        policy = prompted(listener, method)
        drawn = policy.sample([QUESTION, (), LONG], n=2, sampling=Sampling(), rng=Rng(0))
        assert listener.asked == [method.rewrite(QUESTION), (), method.rewrite(LONG)]
        assert [[draw.text for draw in row] for row in drawn] == [
            [QUESTION[0].content] * 2,
            [""] * 2,
            ["And a window?"] * 2,
        ]

    def test_it_keeps_the_rung_of_its_base(self) -> None:
        table = Tabular((QUESTION,), ("a",), torch.zeros(1, 1))
        assert isinstance(prompted(table), Scorable)
        assert not isinstance(prompted(Listener()), Scorable)
        assert Exemplars.gives_on(type(table)) is Scorable
        assert Exemplars.gives_on(Listener) is Policy

    def test_draws_and_scores_are_those_of_the_rewritten_chat(self) -> None:
        """A table that answers the rewritten chat otherwise than the plain one, and bare text in a third way."""
        asked = Exemplars().rewrite(QUESTION)
        chances = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
        table = Tabular((QUESTION, asked, ()), ("a", "b"), chances.log())
        policy = prompted(table)
        assert isinstance(policy, Scorable)
        found = policy.logprob([QUESTION, QUESTION, ()], ["a", "b", "a"]).exp()
        torch.testing.assert_close(found, torch.tensor([0.2, 0.8, 0.5], dtype=torch.float64))
        drawn = policy.sample([QUESTION], n=9, sampling=Sampling(), rng=Rng(1))
        assert drawn == table.sample([asked], n=9, sampling=Sampling(), rng=Rng(1))

    def test_a_small_model_scores_through_its_template(self, tiny_policy: Local) -> None:
        method = Exemplars(shots=1, preamble=False)  # what fits into 512 letters
        policy = prompted(tiny_policy, method)
        assert isinstance(policy, Scorable)
        found = policy.logprob([QUESTION], ["two metres"])
        torch.testing.assert_close(found, tiny_policy.logprob([method.rewrite(QUESTION)], ["two metres"]))
        assert not torch.allclose(found, tiny_policy.logprob([QUESTION], ["two metres"]), atol=1e-2)

    def test_its_fingerprint_tells_settings_and_bases_apart(self) -> None:
        tables = [Tabular((QUESTION,), ("a", "b"), torch.tensor([row])) for row in ([0.0, 0.0], [0.0, 1.0])]
        policies = [prompted(table, Exemplars(shots=shots)) for table in tables for shots in (1, 2)]
        prints = {policy.fingerprint for policy in policies} | {table.fingerprint for table in tables}
        assert len(prints) == 6
        assert prompted(tables[0], Exemplars(shots=1)).fingerprint in prints
