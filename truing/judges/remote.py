"""A language model as the judge: it rates replies and compares two, asked in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from truing.core.errors import Fault, InputError
from truing.core.evidence import Judge
from truing.core.policy import Chat, Policy, Sampling
from truing.core.rng import Rng
from truing.judges.wording import CRITERIA, comparison_chat, parse_rating, parse_verdict, rating_chat

GREEDY = Sampling(temperature=0.0, max_new_tokens=32)
MIDDLE = 5.5  # of the ratings 1 to 10


class RemoteJudge(Judge):
    """Any policy as a judge, most often a large model behind an endpoint.

    An answer that does not end in the line asked for is asked for once more, from another random stream and at
    temperature 1 where the first was greedy (greedy again would say the same). If that cannot be read either,
    the answer counts as a tie, or as the middle of the scale, and ``unparsed`` goes up by one.

    Attributes:
        unparsed: answers that could not be read even the second time.
        inconsistent: comparisons in which each order named another winner: the model went by position.
        asked: questions put to the policy, second tries included.

    Args:
        policy: who is asked.
        name: what reports call the judge.
        criteria: what to judge by; completes "Judge the reply by ...".
        sampling: how answers are drawn. Give a model that thinks aloud more tokens; only its last line counts.
        seed: decides the random streams, where ``sampling`` is not greedy.
    """

    pairwise = True

    def __init__(
        self,
        policy: Policy,
        *,
        name: str = "remote",
        criteria: str = CRITERIA,
        sampling: Sampling = GREEDY,
        seed: int = 0,
    ) -> None:
        self.policy, self.name, self.criteria, self.sampling = policy, name, criteria, sampling
        self.rng = Rng(seed).child("judge", name)
        self.unparsed = self.inconsistent = self.asked = 0

    def score(self, chats: Sequence[Chat], replies: Sequence[str]) -> list[float]:
        """A rating from 1 to 10 for each reply, each asked on its own.

        Raises:
            InputError: chats and replies differ in number.
        """
        self._check(chats, replies)
        questions = [rating_chat(chat, reply, self.criteria) for chat, reply in zip(chats, replies, strict=True)]
        return self._ask(questions, parse_rating, MIDDLE)

    def compare(self, chats: Sequence[Chat], left: Sequence[str], right: Sequence[str]) -> list[float]:
        """1 where the left reply wins in both orders, 0 where the right one does, else 0.5.

        A judge that always prefers the reply it reads first so gives 0.5 throughout. Equal replies are a tie
        without being asked about.

        Raises:
            InputError: chats, left and right differ in number.
        """
        self._check(chats, left, right)
        rows = list(zip(chats, left, right, strict=True))
        open_ = [number for number, (_, one, other) in enumerate(rows) if one != other]
        asked = [rows[number] for number in open_]
        questions = [comparison_chat(chat, one, other, self.criteria) for chat, one, other in asked]
        questions += [comparison_chat(chat, other, one, self.criteria) for chat, one, other in asked]
        answers = self._ask(questions, parse_verdict, 0.5)
        results = [0.5] * len(rows)
        for place, number in enumerate(open_):
            forward, backward = answers[place], 1 - answers[place + len(open_)]
            if forward == backward:
                results[number] = forward
            elif abs(forward - backward) == 1:
                self.inconsistent += 1
        return results

    def _ask(self, questions: Sequence[Chat], parse: Callable[[str], float | None], otherwise: float) -> list[float]:
        """One parsed answer a question; a question that occurs twice is put once."""
        answers = self._round(list(dict.fromkeys(questions)), parse, self.sampling, "first")
        failed = [question for question, value in answers.items() if value is None]
        warmer = self.sampling if self.sampling.temperature else replace(self.sampling, temperature=1.0)
        answers |= self._round(failed, parse, warmer, "second")
        values = [answers[question] for question in questions]
        self.unparsed += values.count(None)
        return [otherwise if value is None else value for value in values]

    def _round(
        self, questions: Sequence[Chat], parse: Callable[[str], float | None], sampling: Sampling, stream: str
    ) -> dict[Chat, float | None]:
        if not questions:
            return {}
        self.asked += len(questions)
        draws = self.policy.sample(questions, n=1, sampling=sampling, rng=self.rng.child(stream))
        return {question: parse(row[0].text) for question, row in zip(questions, draws, strict=True)}

    def _check(self, chats: Sequence[Chat], *replies: Sequence[str]) -> None:
        if any(len(column) != len(chats) for column in replies):
            counts = " and ".join(str(len(column)) for column in replies)
            raise InputError(Fault(f"judge {self.name}", f"{len(chats)} chats but {counts} replies"))
