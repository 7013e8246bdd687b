"""The sampler: n draws a prompt, each prompt's keys and values once, finished rows out, new prompts in.

A draw depends on the seed, its prompt and its number: its random numbers come from a stream of that name, so neither
the batch nor the order matters. What remains is rounding: a matrix product of another shape rounds otherwise, by some
1e-5 nats in float32, and where two tokens are as near as that in the race for the next place, the other one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truing.core.errors import bad
from truing.core.lazy import torch
from truing.core.policy import Draw, Sampling
from truing.core.rng import Rng
from truing.core.run import Log, Quiet
from truing.core.trees import Tree
from truing.engine.choose import Chooser, Row
from truing.engine.memory import keeping
from truing.engine.score import TOLERANCE, score_plain
from truing.engine.session import Session, whole_passes

PROOF = 3  # tokens that are drawn to compare the cascade with the model's own forward pass


@dataclass
class Sampler:
    """Draws from one causal language model of transformers.

    Attributes:
        stop_ids: tokens that end a reply.
        decode: from token ids to text.
        rows: draws in progress at once, at most.
        tokens: keys and values kept at once, in tokens; with long prompts or replies fewer rows are in progress.
        layout: ``cascade``, or ``plain`` for a model that attends in another way; decided on the first prompts.
    """

    model: Any
    stop_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    rows: int = 192
    log: Log = field(default_factory=Quiet)
    layout: Literal["cascade", "plain"] | None = None
    tokens: int = 2**16

    @keeping()
    def __call__(
        self, prompts: Sequence[Sequence[int]], *, n: int, sampling: Sampling, rng: Rng, stage: str = "sampling"
    ) -> list[list[Draw]]:
        """``n`` draws to each prompt, given as at least one token. Equal prompts get equal draws, made once.

        Raises:
            InputError: a prompt and the longest reply do not fit into the model's positions.
            RunError: the model gives NaN.
        """
        from truing.engine.cache import digest

        unique = list(dict.fromkeys(map(tuple, prompts)))
        self._check(unique, sampling)

        def rows_of(i: int) -> list[Row]:
            stream = rng.child("draw", digest(list(unique[i])))
            return [Row(i, k, stream.child(k).numpy()) for k in range(n)]

        drawn: dict[tuple[int, ...], dict[int, Draw]] = {prompt: {} for prompt in unique}
        with torch.inference_mode():
            self._prove(unique)
            for done, row in enumerate(self._rows(unique, n, sampling, rows_of), 1):
                drawn[unique[row.prompt]][row.number] = self._draw(row, sampling)
                self.log.progress(stage, done, len(unique) * n)
        return [[drawn[tuple(prompt)][k] for k in range(n)] for prompt in prompts]

    def _rows(
        self, prompts: Sequence[tuple[int, ...]], n: int, sampling: Sampling, rows_of: Callable[[int], list[Row]]
    ) -> Iterator[Row]:
        """The longest prompts come first, so that room for their keys and values is made once."""
        queue = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)) if n > 0 else []
        if not queue:
            return iter(())
        room, longest = sampling.max_new_tokens, len(prompts[queue[0]])
        most = min(self.rows, len(queue) * n, int(self.tokens / (room + longest / min(n, self.rows))))
        choose = Chooser(self.stop_ids, self.decode, sampling)
        if self.layout == "plain":
            return whole_passes(self.model, prompts, choose, max(1, most), queue, rows_of)
        return Session(self.model, prompts, choose, most=max(1, most), room=room)(queue, rows_of)

    def _positions(self) -> int | None:
        """How many tokens the model has positions for; None where it sets no limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    def _check(self, prompts: Sequence[tuple[int, ...]], sampling: Sampling) -> None:
        limit, most = self._positions(), sampling.max_new_tokens
        if limit is None or not (long := [len(prompt) for prompt in prompts if len(prompt) + most > limit]):
            return
        left = limit - max(long)
        mend = f"Set it to {left} or less, or shorten the prompts." if left > 0 else "Shorten the prompts."
        fact = f"{most} tokens do not fit behind {len(long)} of {len(prompts)} prompts ({max(long)} tokens the longest)"
        raise bad("sampling.max_new_tokens", f"{fact}: the model has {limit} positions", mend)

    def _prove(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Draw a little, once, and compare with the model's own forward pass; go without the cascade where they differ.

        A model whose attention does not go through transformers' interface (or that has none) would otherwise be
        asked without its context, and answer fluently.
        """
        if self.layout is not None or not prompts:
            return
        few = sorted(prompts, key=len)[:2]
        few = [prompt[: max(1, (self._positions() or len(prompt) + PROOF) - PROOF)] for prompt in few]
        if len(set(few)) == 1:  # two, of two lengths where it can be: how they are packed is to be proved as well
            few = [few[0], few[0][len(few[0]) // 2 :] if len(few[0]) > 1 else few[0] * 2]
        try:
            choose = Chooser(frozenset(), self.decode, Sampling(max_new_tokens=PROOF))
            session = Session(self.model, few, choose, most=4, room=PROOF)
            found: list[list[Row]] = [[Row(i, k, Rng(i).child(k).numpy()) for k in range(2)] for i in range(2)]
            list(session(range(2), found.__getitem__))
            trees = [
                Tree(prompt, tuple(tuple(row.tokens) for row in own)) for prompt, own in zip(few, found, strict=True)
            ]
            drawn = torch.tensor([logprob for own in found for row in own for logprob in row.logprobs])
            gap = float((score_plain(self.model, trees).tokens.cpu() - drawn).abs().max())
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
