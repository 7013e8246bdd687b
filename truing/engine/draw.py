"""The sampler: n draws a prompt, each prompt's keys and values once, finished rows out, new prompts in.

A draw depends on the seed, its prompt and its number: its uniform numbers come from a stream of that name and are
turned into tokens by the inverse of the distribution function, so neither the batch nor the order matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.policy import Draw, Sampling
from truing.core.rng import Rng
from truing.core.run import Log, Quiet
from truing.engine.cascade import Cascade
from truing.engine.score import project

SHORTEST_TRUNK = 16  # tokens; below that a level of its own costs more than it saves


def pick(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Tokens for ``(B, V)`` logits and ``(B,)`` uniform numbers in [0, 1): ``(B,)``, by inverse CDF."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_k:
        least = probabilities.topk(min(sampling.top_k, probabilities.shape[-1]), -1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= sampling.top_p * ordered.sum(-1, keepdim=True)
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(outside, 0))
    if sampling.min_p > 0:
        least = sampling.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    cumulated = probabilities.cumsum(-1)
    # The last sum, not 1: rounding must not let a number fall beyond the last token.
    wanted = uniform[:, None].to(cumulated.dtype) * cumulated[:, -1:]
    chosen = torch.searchsorted(cumulated, wanted, right=True).squeeze(-1)
    return chosen.clamp_max(probabilities.shape[-1] - 1)


@dataclass
class _Row:
    """One draw in progress."""

    prompt: int
    number: int
    uniform: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


@dataclass
class Sampler:
    """Draws from one causal language model of transformers.

    Attributes:
        stop_ids: tokens that end a reply.
        decode: from token ids to text.
        rows: draws in progress at once.
    """

    model: Any
    stop_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    rows: int = 192
    log: Log = field(default_factory=Quiet)

    def __call__(
        self, prompts: Sequence[Sequence[int]], *, n: int, sampling: Sampling, rng: Rng, stage: str = "sampling"
    ) -> list[list[Draw]]:
        """``n`` draws to each prompt, given as at least one token."""
        from truing.engine.cache import digest

        done: list[list[Draw | None]] = [[None] * n for _ in prompts]
        uniforms = {}
        for i, prompt in enumerate(prompts):
            stream = rng.child("draw", digest(list(prompt)))
            uniforms[i] = [torch.from_numpy(stream.child(k).numpy().random(sampling.max_new_tokens)) for k in range(n)]
        queue = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i), reverse=True)
        with torch.inference_mode():
            session = _Session(self, prompts, sampling)
            while queue or session.rows:
                batch: list[int] = []
                while queue and (len(session.rows) + len(batch) * n + n <= self.rows or not (session.rows or batch)):
                    batch.append(queue.pop())
                session.admit(batch, [_Row(i, k, uniforms[i][k]) for i in batch for k in range(n)])
                for row in session.advance(hungry=bool(queue), n=n):
                    done[row.prompt][row.number] = self._draw(row, sampling)
                finished = sum(draw is not None for draws in done for draw in draws)
                self.log.progress(stage, finished, len(prompts) * n)
        return [[draw for draw in draws if draw is not None] for draws in done]

    def _draw(self, row: _Row, sampling: Sampling) -> Draw:
        ids = row.tokens[:-1] if row.tokens[-1] in self.stop_ids else row.tokens
        text = self.decode(ids)
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        return Draw(text, tuple(row.tokens), tuple(row.logprobs), row.finish or "length")


class _Session:
    """Rows in flight over one cascade."""

    def __init__(self, sampler: Sampler, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        self.sampler, self.model, self.sampling = sampler, sampler.model, sampling
        self.prompts = [tuple(prompt) for prompt in prompts]
        self.rows: list[_Row] = []
        self.groups: list[int] = []
        self.state = Cascade(room=sampling.max_new_tokens)
        self.trunk = _common(self.prompts)
        if self.trunk:
            self._forward([list(self.prompts[0][: self.trunk])], torch.arange(self.trunk)[None], "trunk")

    def _forward(self, ids: Any, positions: torch.Tensor, phase: str) -> torch.Tensor:
        device = self.model.device
        with self.state.running(self.model, phase):
            hidden: torch.Tensor = self.model.base_model(
                input_ids=torch.as_tensor(ids, device=device), position_ids=positions.to(device), use_cache=False
            ).last_hidden_state
        return hidden

    def admit(self, prompts: Sequence[int], rows: Sequence[_Row]) -> None:
        """Prefill some prompts and draw the first token of their rows."""
        if not prompts:
            return
        rests = [self.prompts[i][self.trunk :] for i in prompts]
        longest = max(map(len, rests))
        ids = [[*rest, *[0] * (longest - len(rest))] for rest in rests]
        kept, lengths = self.state.prefix, self.state.prefix_length
        self.state.prefix = {}
        hidden = self._forward(ids, (self.trunk + torch.arange(longest)).expand(len(ids), -1), "prefix")
        sizes = torch.tensor([len(rest) for rest in rests])
        last = hidden[torch.arange(len(ids)), sizes.to(hidden.device) - 1]
        if kept:
            self.state.prefix = {i: _stack(kept[i], new) for i, new in self.state.prefix.items()}
            sizes = torch.cat([lengths.cpu(), sizes])
        self.state.prefix_length = sizes.to(hidden.device)
        first = project(self.model, last)
        owner = {prompt: k for k, prompt in enumerate(prompts)}
        self._take(rows, first[torch.tensor([owner[row.prompt] for row in rows], device=first.device)])
        for layer, (key, value) in self.state.suffix.items():
            grown = [torch.cat([part, part.new_zeros(len(rows), *part.shape[1:])]) for part in (key, value)]
            self.state.suffix[layer] = (grown[0], grown[1])
        self.groups += prompts
        self.rows += rows

    def advance(self, *, hungry: bool, n: int) -> list[_Row]:
        """Decode until enough rows are finished to make room (or all are); gives the finished ones back."""
        finished = self._leave()
        goal = len(self.rows) - max(n, len(self.rows) // 4) if hungry else len(self.rows) // 2
        while self.rows and sum(row.finish is None for row in self.rows) > goal:
            self._step()
        return finished + self._leave()

    def _leave(self) -> list[_Row]:
        left = [row for row in self.rows if row.finish is not None]
        if left:
            keep = [i for i, row in enumerate(self.rows) if row.finish is None]
            alive = {self.rows[i].prompt for i in keep}
            groups = [g for g, prompt in enumerate(self.groups) if prompt in alive]
            device = self.state.prefix_length.device
            if keep:
                self.state.keep(torch.tensor(keep, device=device), torch.tensor(groups, device=device))
            self.rows = [self.rows[i] for i in keep]
            self.groups = [self.groups[g] for g in groups]
        if not self.rows:
            self.state.prefix, self.state.suffix, self.groups = {}, {}, []
            return left
        self._index()
        return left

    def _index(self) -> None:
        device = self.state.prefix_length.device
        place = {prompt: g for g, prompt in enumerate(self.groups)}
        counts: dict[int, int] = {}
        slots = []
        for row in self.rows:
            slots.append(counts.setdefault(row.prompt, 0))
            counts[row.prompt] += 1
        self.state.group = torch.tensor([place[row.prompt] for row in self.rows], device=device)
        self.state.slot = torch.tensor(slots, device=device)
        self.state.slots = max(counts.values())
        self.state.longest = int(self.state.prefix_length.max())
        self.state.prefix = {
            i: (key[:, :, : self.state.longest], value[:, :, : self.state.longest])
            for i, (key, value) in self.state.prefix.items()
        }

    def _step(self) -> None:
        """One token for every row; a finished row idles until it leaves."""
        device = self.state.prefix_length.device
        state = self.state
        written = [min(len(row.tokens), self.sampling.max_new_tokens) - 1 for row in self.rows]
        state.step = torch.tensor(written, device=device)
        positions = (self.trunk + state.prefix_length[state.group] + state.step)[:, None]
        hidden = self._forward([[row.tokens[-1]] for row in self.rows], positions, "decode")
        self._take(self.rows, project(self.model, hidden[:, -1]))

    def _take(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        """Draw one token for every unfinished row from its logits."""
        at = [min(len(row.tokens), self.sampling.max_new_tokens - 1) for row in rows]
        uniform = torch.stack([row.uniform[k] for row, k in zip(rows, at, strict=True)]).to(logits.device)
        chosen = pick(logits, uniform, self.sampling)
        logprobs = (logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)).tolist()
        for row, token, logprob in zip(rows, chosen.tolist(), logprobs, strict=True):
            if row.finish is not None:
                continue
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in self.sampler.stop_ids or self._stopped(row):
                row.finish = "stop"
            elif len(row.tokens) == self.sampling.max_new_tokens:
                row.finish = "length"

    def _stopped(self, row: _Row) -> bool:
        if not self.sampling.stop:
            return False
        tail = self.sampler.decode(row.tokens[-max(map(len, self.sampling.stop)) - 4 :])
        return any(stop in tail for stop in self.sampling.stop)


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with, if they are worth a level of their own; every prompt keeps one token."""
    if len(prompts) < 2:
        return 0
    low, high = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if low[i] != high[i]), limit)
    return length if length >= SHORTEST_TRUNK else 0


def _stack(
    old: tuple[torch.Tensor, torch.Tensor], new: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two right-padded prefixes ``(G, H, L, D)`` as one."""
    length = max(old[0].shape[2], new[0].shape[2])
    padded = [
        [torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[2])) for x in (a, b)]
        for a, b in zip(old, new, strict=True)
    ]
    return torch.cat(padded[0]), torch.cat(padded[1])
