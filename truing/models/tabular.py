"""A policy of few prompts and few replies, as one table. Every expectation is a sum, so tests can be exact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

from truing.core.errors import Fault, InputError, bad, did_you_mean
from truing.core.lazy import torch
from truing.core.policy import WHOLE, Chat, Draw, Editable, Message, Opening, Reply, Sampling, Workbench
from truing.core.rng import Rng
from truing.core.trees import Tree, TreeScores
from truing.engine.vocabulary import divergences, extrapolated

TABLE, ORIGIN = "tabular.safetensors", "tabular.json"


@dataclass(frozen=True, eq=False)
class Tabular(Editable):
    """P prompts x R replies. A reply is one token, whose id is its number in ``replies``.

    Attributes:
        prompts: the chats that it knows, each once; the empty chat may be one of them.
        replies: the texts that it can give, each once, the same for every prompt.
        logits: ``(P, R)``, kept as a private float64 copy; each row is normalised when it is read.
            ``-inf`` is a reply that is never given.

    Example:
        >>> from truing.core.policy import user
        >>> table = Tabular((user("1 + 1?"),), ("2", "3"), torch.tensor([[0.75, 0.25]]).log())
        >>> table.logprob([user("1 + 1?")], ["2"]).exp().round(decimals=6).item()
        0.75

    Raises:
        InputError: a prompt or a reply is there twice, there are none, or the table has another shape, a NaN,
            ``+inf``, or a row in which nothing is possible.
    """

    prompts: tuple[Chat, ...]
    replies: tuple[str, ...]
    logits: torch.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(map(tuple, self.prompts)))
        object.__setattr__(self, "replies", tuple(self.replies))
        object.__setattr__(self, "logits", torch.as_tensor(self.logits, dtype=torch.float64).detach().clone())
        faults = self._faults()
        if faults:
            raise InputError(*faults)

    def _faults(self) -> list[Fault]:
        faults = []
        for place, names in (("prompts", self.prompts), ("replies", self.replies)):
            if not names:
                faults.append(Fault(place, "there are none", "A table needs one at least."))
            if len(set(names)) < len(names):
                faults.append(Fault(place, "one is there twice", "Give each once."))
        shape = (len(self.prompts), len(self.replies))
        if tuple(self.logits.shape) != shape:
            return [*faults, Fault("logits", f"shape is {tuple(self.logits.shape)}, not {shape}", "One a reply.")]
        if not bool((self.logits < torch.inf).all()):
            faults.append(Fault("logits", "there is a NaN or +inf", "Use finite numbers, or -inf for never."))
        elif bool((self.logits == -torch.inf).all(dim=1).any()):
            faults.append(Fault("logits", "a row is -inf throughout", "Leave one reply possible for each prompt."))
        return faults

    def distribution(self, chat: Chat) -> tuple[tuple[str, ...], torch.Tensor]:
        """Every reply and its log-probability, ``(R,)`` float64, nats.

        Raises:
            InputError: the chat is not in the table.
        """
        return self.replies, self.logits[self._row(chat)].log_softmax(0)

    def sample(self, chats: Sequence[Chat], *, n: int, sampling: Sampling, rng: Rng) -> list[list[Draw]]:
        """``n`` replies to each chat by inverse CDF: one uniform number a draw, from ``rng.child(chat, k)``.

        Temperature, ``top_k``, ``top_p`` and ``min_p`` act on whole replies, which are its tokens.
        """
        return [self._draws(chat, n, sampling, rng.child(chat_key(chat))) for chat in chats]

    def _draws(self, chat: Chat, n: int, sampling: Sampling, rng: Rng) -> list[Draw]:
        plain = self.distribution(chat)[1]
        cdf = _tempered(plain, sampling).cumsum(0)
        points = torch.tensor([rng.child(k).numpy().random() for k in range(n)], dtype=torch.float64) * cdf[-1]
        picks = torch.searchsorted(cdf, points, right=True).tolist()
        return [Draw(_cut(self.replies[i], sampling.stop), (i,), (float(plain[i]),)) for i in picks]

    def token_logprobs(self, chats: Sequence[Chat], replies: Sequence[Reply]) -> list[torch.Tensor]:
        """One ``(1,)`` tensor a reply, nats. float64, where a language model gives float32: here sums are exact."""
        table = self.logits.log_softmax(1)
        pairs = zip(chats, replies, strict=True)
        return [table[self._row(chat), self._column(reply)].reshape(1) for chat, reply in pairs]

    def weights(self) -> Mapping[str, torch.Tensor]:
        """``{"logits": (P, R)}``."""
        return MappingProxyType({"logits": self.logits})

    def with_weights(self, weights: Mapping[str, torch.Tensor]) -> Tabular:
        """The same prompts and replies with another table."""
        if set(weights) != {"logits"}:
            raise bad("weights", f"a table has 'logits' alone, not {sorted(weights)}")
        return Tabular(self.prompts, self.replies, weights["logits"])

    def encode(self, chat: Chat, replies: Sequence[Reply]) -> Tree:
        """The number of the prompt, and of each reply."""
        return Tree((self._row(chat),), tuple((self._column(reply),) for reply in replies))

    def open(self, how: Opening = WHOLE, seed: int = 0) -> TabularWorkbench:
        """A copy whose logits are a parameter.

        Raises:
            InputError: adapters, or a part of the table, were asked for.
        """
        if how.lora_r or how.unfrozen_parameters:
            fact = f"has one parameter, so neither lora_r = {how.lora_r} nor a part of it can be trained"
            raise bad("table", fact, "Leave lora_r and unfrozen_parameters out.")
        return TabularWorkbench(self)

    def save(self, folder: Path) -> None:
        """``tabular.safetensors`` and ``tabular.json``."""
        from safetensors.torch import save_file

        save_file({"logits": self.logits}, folder / TABLE)
        (folder / ORIGIN).write_text(self._names(), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Tabular:
        """What :meth:`save` wrote.

        Raises:
            InputError: there is no table in the folder.
        """
        from safetensors.torch import load_file

        if not (folder / TABLE).is_file() or not (folder / ORIGIN).is_file():
            raise bad(str(folder), f"no {TABLE} with {ORIGIN}", "Name the folder that a table was saved to.")
        names = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        prompts = tuple(tuple(Message(**turn) for turn in chat) for chat in names["prompts"])
        return Tabular(prompts, tuple(names["replies"]), load_file(folder / TABLE)["logits"])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of prompts, replies and logits."""
        return hashlib.sha256(self._names().encode() + self.logits.numpy().tobytes()).hexdigest()

    def _names(self) -> str:
        prompts = [[asdict(turn) for turn in chat] for chat in self.prompts]
        return json.dumps({"prompts": prompts, "replies": self.replies}, ensure_ascii=False)

    def _row(self, chat: Chat) -> int:
        if chat in self.prompts:
            return self.prompts.index(chat)
        known = [prompt[-1].content if prompt else "" for prompt in self.prompts]
        asked = chat[-1].content if chat else ""
        raise bad("chat", f"the table has no prompt {asked!r} with these turns", did_you_mean(asked, known))

    def _column(self, reply: Reply) -> int:
        if isinstance(reply, Draw) and reply.token_ids:
            if len(reply.token_ids) == 1 and 0 <= reply.token_ids[0] < len(self.replies):
                return reply.token_ids[0]
            mend = f"A reply is one token, 0 to {len(self.replies) - 1}."
            raise bad("reply", f"tokens {reply.token_ids} are none of this table's", mend)
        text = reply.text if isinstance(reply, Draw) else reply
        if text not in self.replies:
            raise bad("reply", f"the table has no reply {text!r}", did_you_mean(text, self.replies))
        return self.replies.index(text)


class TabularWorkbench(Workbench):
    """A table that can be trained: ``module`` holds the logits as its one parameter."""

    def __init__(self, policy: Tabular) -> None:
        self._policy = policy
        self.module = torch.nn.ParameterDict({"logits": torch.nn.Parameter(policy.logits.clone())})

    @property
    def _logits(self) -> torch.Tensor:
        return cast("torch.Tensor", cast("torch.nn.ParameterDict", self.module)["logits"])

    @property
    def embeddings(self) -> torch.Tensor:
        """``(P, P)``: a prompt is one token, whose embedding is its row of the identity; the table multiplies it."""
        return torch.eye(len(self._logits), dtype=torch.float64)

    def score(self, trees: Sequence[Tree], shift: torch.Tensor | None = None) -> TreeScores:
        """Log-probabilities, float64, with gradient. A reply is one token, or none where a tree lacks one."""
        rows, columns, sizes = list[int](), list[int](), list[int]()
        prompts, replies = self._logits.shape
        for number, tree in enumerate(trees):
            for reply in tree.replies:
                known = len(tree.prompt) == 1 and tree.prompt[0] < prompts
                if not known or len(reply) > 1 or any(token >= replies for token in reply):
                    raise bad("tree", f"{tree} is none of this table's", "Make trees with encode().")
                rows += [number] * len(reply)
                columns += reply
                sizes.append(len(reply))
        asked = self._logits[torch.tensor([tree.prompt[0] for tree in trees], dtype=torch.int64)]
        if shift is not None:  # what is never given stays so, however far a prompt is moved
            asked = asked + shift @ self._logits.masked_fill(self._logits == -torch.inf, 0.0)
        table = asked.log_softmax(1)
        index = (torch.tensor(rows, dtype=torch.int64), torch.tensor(columns, dtype=torch.int64))
        agree = (2 * table.detach()).logsumexp(1)[index[0]] if self.extras.collisions else None
        apart = further = None
        if self.extras.compares:
            own, base = asked[index[0]], self._policy.logits[[trees[row].prompt[0] for row in rows]]
            apart = divergences(own, base, self.extras.temperature) if self.extras.divergences else None
            if self.extras.extrapolation:
                further = extrapolated(own.detach(), base, index[1], self.extras.extrapolation)
        counts = torch.tensor(sizes, dtype=torch.int64)
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
        return TreeScores(table[index], owner, counts, collisions=agree, divergences=apart, extrapolated=further)

    def close(self) -> Tabular:
        """The table that the copy has become."""
        return self._policy.with_weights({"logits": self._logits.detach()})


def chat_key(chat: Chat) -> str:
    """A chat as one line of text that no other chat has: the name of its random streams."""
    return json.dumps([[turn.role, turn.content] for turn in chat], ensure_ascii=False)


def _tempered(plain: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Probabilities to draw from, not normalised: the filters in the order in which transformers applies them."""
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(plain.argmax(), len(plain)).double()
    odds = (plain / sampling.temperature).softmax(0)
    order = odds.argsort(descending=True, stable=True)
    if sampling.top_k:
        odds = odds.index_fill(0, order[sampling.top_k :], 0.0)
        odds = odds / odds.sum()
    ahead = odds[order].cumsum(0) - odds[order]  # mass of the likelier replies
    kept = ahead < sampling.top_p  # the likeliest always is
    odds = odds.index_fill(0, order[~kept], 0.0)
    return torch.where(odds < sampling.min_p * odds.max(), 0.0, odds)


def _cut(text: str, stop: Sequence[str]) -> str:
    ends = [text.index(word) for word in stop if word in text]
    return text[: min(ends)] if ends else text
