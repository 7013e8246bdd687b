"""The access ladder: what can be asked, what can also score, what can be opened."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from truing.core.errors import Fault, InputError
from truing.core.rng import Rng
from truing.core.run import Log
from truing.core.trees import NO_EXTRAS, Extras, Tree, TreeScores

if TYPE_CHECKING:
    from truing.core.lazy import torch


@dataclass(frozen=True)
class Message:
    """One turn. ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str


Chat = tuple[Message, ...]
"""A conversation that awaits a reply: its last turn is not the assistant's, or it is a prefix to go on from."""


def user(text: str) -> Chat:
    """The chat of one user turn."""
    return (Message("user", text),)


@dataclass(frozen=True)
class Draw:
    """One sampled reply: tokens first, text second. What was generated is never tokenised again.

    Attributes:
        text: the reply, without the end-of-turn token, and without a stop text and what follows it.
        token_ids: every token drawn, up to the end-of-turn token or the one in which a stop text ended, both
            included. So they can say more than the text, and are what was drawn: a prefilled beginning is not in it.
        logprobs: log-probability of each token under the untempered policy, nats; empty where the
            policy cannot say.
        finish: ``stop`` (the end of turn or a stop string was reached) or ``length``.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish: Literal["stop", "length"] = "stop"


Reply = Draw | str
"""A reply to score: a draw by its tokens, a text by its tokenisation plus the end of turn."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw.

    Attributes:
        max_new_tokens: the longest reply, tokens.
        temperature: > 0; 1 is the model itself. 0 is greedy.
        top_p: mass of the nucleus, (0, 1].
        top_k: the k likeliest tokens; 0 is all.
        min_p: least probability relative to the likeliest token, [0, 1].
        stop: texts that end a reply; the text itself is cut off. They are looked for in the reply alone, never in
            the prompt or across its border, and special tokens are not text.

    Raises:
        InputError: a value of another type or out of range.
    """

    max_new_tokens: Annotated[int, Ge(1)] = 256
    temperature: Annotated[float, Ge(0)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    stop: tuple[Annotated[str, MinLen(1)], ...] = ()

    def __post_init__(self) -> None:
        from truing.core.method import coerce, field_faults

        faults = field_faults(Sampling, vars(self), "sampling")
        if faults:
            raise InputError(*faults)
        for name, value in coerce(Sampling, vars(self)).items():  # a list of stop texts is a tuple
            object.__setattr__(self, name, value)


class Policy(ABC):
    """Something that can be asked."""

    @abstractmethod
    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        """``n`` independent replies to each chat.

        A draw depends on the stream, its chat and its number, not on what else is in the call.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that :func:`truing.models.load` needs into an existing empty folder."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A content hash: two policies with one fingerprint answer alike."""


class Scorable(Policy):
    """Something that can also say how likely a reply is."""

    @abstractmethod
    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        """Log-probability of each token of each reply, nats: one ``(T_i,)`` float32 tensor a reply."""

    def logprob(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> torch.Tensor:
        """Log-probability of each reply, summed over its tokens, ``(B,)``, nats."""
        from truing.core.lazy import torch

        sums = [tokens.double().sum() for tokens in self.token_logprobs(chats, replies)]
        return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What of a policy is trained, under the names of TRL, peft and Axolotl.

    There is no ``lora_dropout``: its noise would be ambient, and would part policy and reference before the first step.

    Attributes:
        lora_r: rank of the adapters that are trained instead of the weights (arXiv:2106.09685); 0 trains the weights.
            Adapters want about ten times the learning rate.
        lora_alpha: an adapter's product is scaled by ``lora_alpha / lora_r``.
        lora_target_modules: the layers with an adapter, by the end of their names; empty is every block's projections.
        use_dora: adapters of the direction, beside a magnitude for each output (arXiv:2402.09353).
        unfrozen_parameters: regular expressions: without adapters, only parameters in whose names one is found are
            trained; empty is all of them.
        gradient_checkpointing: keep activations between blocks only and compute the others twice: less memory.
    """

    lora_r: Annotated[int, Ge(0)] = 0
    lora_alpha: Annotated[int, Ge(1)] = 32
    lora_target_modules: tuple[str, ...] = ()
    use_dora: bool = False
    unfrozen_parameters: tuple[str, ...] = ()
    gradient_checkpointing: bool = False

    def faults(self, place: str = "") -> list[Fault]:
        """Settings that contradict each other, or are no regular expressions."""
        found = []
        if self.lora_r and self.unfrozen_parameters:
            fact = "lora_r leaves every parameter as it is, and unfrozen_parameters names some to train"
            found.append(Fault(place, fact, "Give one of the two."))
        for name in ("use_dora", "lora_target_modules"):
            if getattr(self, name) and not self.lora_r:
                fact = f"{name} is about adapters, and lora_r = 0 trains none"
                found.append(Fault(place, fact, "Set lora_r, e.g. 16."))
        for pattern in self.unfrozen_parameters:
            try:
                re.compile(pattern)
            except re.error as error:
                found.append(Fault(place, f"unfrozen_parameters: {pattern!r} is no regular expression: {error}"))
        return found


WHOLE = Opening()
"""Every weight is trained."""


class Workbench(ABC):
    """A private, trainable copy of an editable policy.

    Attributes:
        module: what is trained.
        extras: what scores tell beside log-probabilities.
        most_kept: tokens of a pass all of whose activations are kept for the backward pass. Of a longer one, which is a
            single tree, those between blocks are, and the others computed twice, where the model's blocks are known.
    """

    module: torch.nn.Module
    extras: Extras = NO_EXTRAS
    most_kept: float = math.inf

    @property
    @abstractmethod
    def embeddings(self) -> torch.Tensor:
        """A row for each token, ``(V, D)``: the space in which a prompt's tokens can be shifted."""

    @abstractmethod
    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        """Log-probabilities with gradient.

        Args:
            shift: ``(P, D)``, added to the embeddings of the prompts' tokens, tree by tree, in the unit of
                :attr:`embeddings`; replies keep theirs.
        """

    @abstractmethod
    def close(self) -> Editable:
        """The policy that the copy has become."""


class Editable(Scorable):
    """Something that can be opened: its weights read, replaced, trained.

    Attributes:
        trained_parameters: how many numbers training could change to make it; None where nobody counted.
        footprint: of a policy that a method made smaller or larger: its ``parameters``, and the ``multiplications`` a
            token costs in the layers that the method is about; empty where the size is the base's.
    """

    trained_parameters: int | None = None
    footprint: Mapping[str, float] = MappingProxyType({})

    @abstractmethod
    def weights(self) -> Mapping[str, torch.Tensor]:
        """Every tensor by name. Not to be written to."""

    @abstractmethod
    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Editable:
        """The same architecture with other weights; this policy is left as it is."""

    @abstractmethod
    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        """The tokens of a prompt and its replies, each text reply with its end of turn."""

    def encode_many(self, chats: Sequence[Chat], replies: Sequence[Sequence[Reply]]) -> list[Tree]:
        """One tree a chat with its replies; where tokenising is cheaper in one call, it is one call."""
        return [self.encode(chat, group) for chat, group in zip(chats, replies, strict=True)]

    @abstractmethod
    def open(self, how: Opening = WHOLE, seed: int = 0) -> Workbench:
        """A trainable copy; ``seed`` decides the first weights of what is new in it.

        Raises:
            InputError: the policy cannot be opened so.
        """

    def at_rest(self, folder: Path) -> AbstractContextManager[None]:
        """For as long as nobody is expected to read the weights; where they are many, they wait in a file.

        Args:
            folder: for a file without a name.
        """
        return nullcontext()

    def tree_logprobs(self, trees: Sequence[Tree], log: Log) -> list[torch.Tensor]:
        """Log-probability of each token of each reply, ``(T_i,)`` nats, without gradient."""
        from truing.core.lazy import torch

        with torch.no_grad():
            scores = self.open().score(trees)
        return list(scores.tokens.split(scores.counts.tolist()))
