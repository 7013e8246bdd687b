"""Prompting: a member rewrites a chat; the policy behind it is asked the rewritten one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from truing.core.artefact import save_wrapped
from truing.core.evidence import Evidence
from truing.core.lazy import torch
from truing.core.measures import Measures
from truing.core.method import Method
from truing.core.policy import Chat, Draw, Policy, Reply, Sampling, Scorable
from truing.core.rng import Rng
from truing.core.run import Run


@dataclass(frozen=True, kw_only=True)
class PromptMethod(Method[Policy, Policy]):
    """Changes what is asked, not who answers."""

    @abstractmethod
    def rewrite(self, chat: Chat) -> Chat:
        """The chat that the policy behind is asked in place of ``chat``."""

    @classmethod
    def gives_on(cls, rung: type[Policy]) -> type[Policy] | type[Evidence] | type[Measures]:
        return Scorable if issubclass(rung, Scorable) else Policy

    def __call__(self, base: Policy, evidence: Evidence, run: Run, /) -> Policy:
        return ScorablePrompted(base, self) if isinstance(base, Scorable) else Prompted(base, self)


class Prompted(Policy):
    """A policy behind a rewriting."""

    def __init__(self, base: Policy, method: PromptMethod) -> None:
        self.base, self.method = base, method

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        return self.base.sample([self.rewritten(chat) for chat in chats], n=n, sampling=sampling, rng=rng)

    def rewritten(self, chat: Chat) -> Chat:
        """What is asked; bare text (the empty chat) has no prompt to rewrite."""
        return self.method.rewrite(chat) if chat else chat

    def save(self, folder: Path) -> None:
        save_wrapped(folder, self.method, self.base)

    @property
    def fingerprint(self) -> str:
        return f"{self.method}/{self.base.fingerprint}"


class ScorablePrompted(Prompted, Scorable):
    """The same, where the policy behind can score."""

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        behind = self.base
        if not isinstance(behind, Scorable):
            raise TypeError("a ScorablePrompted needs a Scorable behind it")
        return behind.token_logprobs([self.rewritten(chat) for chat in chats], replies)
