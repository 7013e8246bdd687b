"""The sampler: n draws a prompt, each prompt's keys and values once, finished rows out, new prompts in.

A draw depends on the seed, its prompt and its number: its uniform numbers come from a stream of that name and are
turned into tokens by the inverse of the distribution function, so neither the batch nor the order matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from truing.core.lazy import torch
from truing.core.policy import Draw, Sampling, Tree
from truing.core.rng import Rng
from truing.core.run import Log, Quiet
from truing.engine.cascade import Cascade
from truing.engine.choose import Chooser, Row
from truing.engine.score import TOLERANCE, project, score_plain

SHORTEST_TRUNK = 16  # tokens; below that a level of its own costs more than it saves


@dataclass
class Sampler:
    """Draws from one causal language model of transformers.

    Attributes:
        stop_ids: tokens that end a reply.
        decode: from token ids to text.
        rows: draws in progress at once.
        layout: ``cascade``, or ``plain`` for a model that attends in another way; decided on the first prompts.
    """

    model: Any
    stop_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    rows: int = 192
    log: Log = field(default_factory=Quiet)
    layout: Literal["cascade", "plain"] | None = None

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
        with torch.inference_mode():
            self._prove(prompts)
            queue = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i), reverse=True)
            session = _Session(self, prompts, sampling)
            while queue or session.rows:
                batch: list[int] = []
                while queue and (len(session.rows) + len(batch) * n + n <= self.rows or not (session.rows or batch)):
                    batch.append(queue.pop())
                session.admit(batch, [Row(i, k, uniforms[i][k]) for i in batch for k in range(n)])
                for row in session.advance(hungry=bool(queue), n=n):
                    done[row.prompt][row.number] = self._draw(row, sampling)
                finished = sum(draw is not None for draws in done for draw in draws)
                self.log.progress(stage, finished, len(prompts) * n)
        return [[draw for draw in draws if draw is not None] for draws in done]

    def _prove(self, prompts: Sequence[Sequence[int]]) -> None:
        """Draw a little, once, and compare with the model's own forward pass; go without the cascade where they differ.

        A model whose attention does not go through transformers' interface (or that has none) would otherwise be
        asked without its context, and answer fluently.
        """
        if self.layout is not None or not prompts:
            return
        short = Sampling(max_new_tokens=3)
        few = sorted(map(tuple, prompts), key=len)[:2]
        try:
            session = _Session(replace(self, stop_ids=frozenset(), layout="cascade"), few, short)
            rows = [Row(i, k, torch.full((3,), 0.25 + k / 2)) for i in range(len(few)) for k in range(2)]
            session.admit(range(len(few)), rows)
            session.advance(hungry=True, n=len(rows))
            trees = [Tree(few[i], tuple(tuple(row.tokens) for row in rows[2 * i : 2 * i + 2])) for i in range(len(few))]
            drawn = [logprob for row in rows for logprob in row.logprobs]
            gap = float((score_plain(self.model, trees).tokens.cpu() - torch.tensor(drawn)).abs().max())
            why = f"log-probabilities differ by {gap:.2g} nats"
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            gap, why = float("inf"), f"{type(error).__name__}: {error}"
        right = gap <= TOLERANCE.get(str(self.model.dtype).removeprefix("torch."), 0.25)
        self.layout = "cascade" if right else "plain"
        if not right:
            self.log.say(
                f"warning: {type(self.model).__name__} answers otherwise under the shared cache ({why}); "
                "drawing without a cache, which is much slower and as right"
            )

    def _draw(self, row: Row, sampling: Sampling) -> Draw:
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
        self.rows: list[Row] = []
        self.groups: list[int] = []
        self.state = Cascade(room=sampling.max_new_tokens)
        self.choose = Chooser(sampler.stop_ids, sampler.decode, sampling)
        self.plain = sampler.layout == "plain"
        self.trunk = 0 if self.plain else _common(self.prompts)
        if self.trunk:
            self._forward([list(self.prompts[0][: self.trunk])], torch.arange(self.trunk)[None], "trunk")

    def _forward(self, ids: Any, positions: torch.Tensor, phase: str) -> torch.Tensor:
        device = self.model.device
        with self.state.running(self.model, phase):
            hidden: torch.Tensor = self.model.base_model(
                input_ids=torch.as_tensor(ids, device=device), position_ids=positions.to(device), use_cache=False
            ).last_hidden_state
        return hidden

    def admit(self, prompts: Sequence[int], rows: Sequence[Row]) -> None:
        """Prefill some prompts and draw the first token of their rows."""
        if not prompts:
            return
        if self.plain:
            self._without_cache(rows)
            return
        rests = [self.prompts[i][self.trunk :] for i in prompts]
        longest = max(map(len, rests))
        ids = [[*rest, *rest[-1:] * (longest - len(rest))] for rest in rests]
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
        self.choose(rows, first[torch.tensor([owner[row.prompt] for row in rows], device=first.device)])
        for layer, (key, value) in self.state.suffix.items():
            grown = [torch.cat([part, part.new_zeros(len(rows), *part.shape[1:])]) for part in (key, value)]
            self.state.suffix[layer] = (grown[0], grown[1])
        self.groups += prompts
        self.rows += rows

    def _without_cache(self, rows: Sequence[Row]) -> None:
        """Whole draws from whole forward passes; the rows of one prompt stand at one length."""
        for prompt in {row.prompt: None for row in rows}:
            own = [row for row in rows if row.prompt == prompt]
            while live := [row for row in own if row.finish is None]:
                ids = torch.tensor([[*self.prompts[prompt], *row.tokens] for row in live], device=self.model.device)
                logits = self.model(input_ids=ids, use_cache=False).logits[:, -1]
                self.choose(live, logits if logits.dtype == torch.float64 else logits.float())
        self.rows += rows

    def advance(self, *, hungry: bool, n: int) -> list[Row]:
        """Decode until enough rows are finished to make room (or all are); gives the finished ones back."""
        finished = self._leave()
        goal = max(0, len(self.rows) - max(n, len(self.rows) // 4)) if hungry else len(self.rows) // 2
        while self.rows and sum(row.finish is None for row in self.rows) > goal:
            self._step()
        return finished + self._leave()

    def _leave(self) -> list[Row]:
        left = [row for row in self.rows if row.finish is not None]
        if left:
            keep = [i for i, row in enumerate(self.rows) if row.finish is None]
            alive = {self.rows[i].prompt for i in keep}
            groups = [g for g, prompt in enumerate(self.groups) if prompt in alive]
            if keep:
                device = self.state.prefix_length.device
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
        self.choose(self.rows, project(self.model, hidden[:, -1]))


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
