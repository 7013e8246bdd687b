"""From logits to the next token of every draw in progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from truing.core.errors import RunError
from truing.core.lazy import torch
from truing.core.policy import Sampling


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
    # Below the last sum, not 1: a number that rounds up to it would fall on a token that the filters took out.
    last = cumulated[:, -1:]
    wanted = (uniform[:, None].to(cumulated.dtype) * last).minimum(last.nextafter(torch.zeros_like(last)))
    chosen = torch.searchsorted(cumulated, wanted, right=True).squeeze(-1)
    return chosen.clamp_max(probabilities.shape[-1] - 1)


@dataclass
class Row:
    """One draw in progress.

    Attributes:
        prompt, number: whose draw it is, and which.
        uniform: ``(max_new_tokens,)`` numbers in [0, 1) that decide it.
    """

    prompt: int
    number: int
    uniform: torch.Tensor
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Chooser:
    """Draws one token for every unfinished row.

    Attributes:
        stop_ids: tokens that end a reply.
        decode: from token ids to text.
        sampling: how to draw.
    """

    stop_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    sampling: Sampling

    def __call__(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Extend the rows from their ``(B, V)`` logits.

        Raises:
            RunError: the model gives NaN.
        """
        at = [min(len(row.tokens), self.sampling.max_new_tokens - 1) for row in rows]
        uniform = torch.stack([row.uniform[k] for row, k in zip(rows, at, strict=True)]).to(logits.device)
        chosen = pick(logits, uniform, self.sampling)
        logprobs = (logits.gather(-1, chosen[:, None]).squeeze(-1) - logits.logsumexp(-1)).tolist()
        for row, token, logprob in zip(rows, chosen.tolist(), logprobs, strict=True):
            if row.finish is not None:
                continue
            if math.isnan(logprob):
                raise RunError("the model gives NaN for the next token. Its weights are damaged, or overflow in dtype.")
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in self.stop_ids or self._stopped(row):
                row.finish = "stop"
            elif len(row.tokens) == self.sampling.max_new_tokens:
                row.finish = "length"

    def _stopped(self, row: Row) -> bool:
        if not self.sampling.stop:
            return False
        # A letter may be four tokens (bytes); more than needed is decoded, never less.
        tail = self.decode(row.tokens[-4 * max(map(len, self.sampling.stop)) - 4 :])
        return any(stop in tail for stop in self.sampling.stop)
