"""From logits to the next token of every draw in progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from truing.core.errors import RunError
from truing.core.lazy import np, torch
from truing.core.policy import Sampling

BLOCK = 256  # neighbours in the vocabulary that race together
LIKELY = 512  # tokens that hold most nuclei: a sort of the whole vocabulary costs as much as the model


def pick(logits: torch.Tensor, waits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by a race: of weights w and exponential waits E, the least E / w is i with odds w_i.

    Two races, first of the sums of ``BLOCK`` neighbours and then inside the block that won, need few waits and give
    the same odds. Unlike the inverse of the distribution function, where the rounding of one likely token moves the
    borders of all behind it, a race changes its winner only where two are as near as the rounding.

    Args:
        logits: ``(B, V)``, float32 or better.
        waits: ``(B, race_width(V))`` float64 of the standard exponential distribution; they decide the token.
        sampling: temperature and filters.

    Returns:
        Tokens ``(B,)`` int64, and their log-probabilities ``(B,)`` under the logits as they are, without temperature
        or filters, nats.
    """
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    sums = _block_sums(weights)
    total = most.squeeze(-1) + sums.sum(-1).log()
    if sampling.temperature == 0:
        chosen = logits.argmax(-1)
    else:
        if sampling.temperature != 1 or sampling.top_k or sampling.top_p < 1 or sampling.min_p > 0:
            weights = filtered(logits, sampling)
            sums = _block_sums(weights)
        chosen = _race(weights, sums, waits)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - total


def filtered(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What ``sampling`` makes of ``(B, V)`` logits: weights to draw from, the likeliest 1, 0 for what is left out.

    The filters are those of transformers, in its order: temperature, ``top_k``, ``top_p``, ``min_p``. A token that
    is exactly as likely as the last one kept by ``top_k`` or ``top_p`` is kept too, so ties need no order.
    """
    weights = ((logits - logits.amax(-1, keepdim=True)) / sampling.temperature).exp_()
    return weights.masked_fill_(weights < _least(weights, sampling), 0)


def _least(weights: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The least weight that may be drawn, ``(B, 1)``. The largest weight of a row is 1."""
    size = weights.shape[-1]
    least = torch.full_like(weights[:, :1], sampling.min_p)
    ordered = None
    if sampling.top_k:
        ordered = weights.topk(min(sampling.top_k, size), -1).values
        least = torch.maximum(least, ordered[:, -1:])
    if sampling.top_p < 1:
        kept = weights if ordered is None else weights.masked_fill(weights < ordered[:, -1:], 0)
        wanted = sampling.top_p * kept.sum(-1, keepdim=True, dtype=torch.float64)
        if ordered is None:
            ordered = _likeliest(weights, wanted)
        ahead = ordered.double().cumsum(-1) < wanted
        last = ahead.sum(-1, keepdim=True).clamp_max(ordered.shape[-1] - 1)  # the token that fills the nucleus
        least = torch.maximum(least, ordered.gather(-1, last))
    return least


def _likeliest(weights: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The largest weights of every row, descending: as many as reach the mass that is wanted, ``(B, 1)``."""
    count = LIKELY
    while count < weights.shape[-1]:
        ordered = weights.topk(count, -1).values
        if bool((ordered.sum(-1, keepdim=True, dtype=torch.float64) >= wanted).all()):
            return ordered
        count *= 8
    return weights.sort(-1, descending=True).values


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """Sums of ``BLOCK`` neighbours, the last ones fewer: ``(B, V)`` to ``(B, K)`` float64."""
    whole = weights.shape[-1] // BLOCK * BLOCK
    parts = [weights[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1)] if whole else []
    if whole < weights.shape[-1]:
        parts.append(weights[:, whole:].sum(-1, keepdim=True))
    return torch.cat(parts, -1).double()


def _race(weights: torch.Tensor, sums: torch.Tensor, waits: torch.Tensor) -> torch.Tensor:
    """The winning block, then the winning token in it. What has no weight never wins."""
    waits = waits.clamp_min(torch.finfo(waits.dtype).tiny)
    block = (sums / waits[:, : sums.shape[-1]]).argmax(-1, keepdim=True)
    places = block * BLOCK + torch.arange(BLOCK, device=block.device)
    outside = places >= weights.shape[-1]
    inside = weights.gather(-1, places.masked_fill(outside, 0)).masked_fill(outside, 0).double()
    return (block * BLOCK + (inside / waits[:, -BLOCK:]).argmax(-1, keepdim=True)).squeeze(-1)


def race_width(size: int) -> int:
    """How many waits decide one token of a vocabulary of ``size``."""
    return -(-size // BLOCK) + BLOCK


@dataclass
class Row:
    """One draw in progress.

    Attributes:
        prompt, number: whose draw it is, and which.
        stream: the random numbers that decide it, as many for every token.
    """

    prompt: int
    number: int
    stream: np.random.Generator
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


@dataclass(frozen=True)
class Chooser:
    """Draws one token for every row.

    Attributes:
        stop_ids: tokens that end a reply.
        decode: from token ids to text.
        sampling: how to draw.
    """

    stop_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]
    sampling: Sampling

    def __call__(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Extend unfinished rows from their ``(B, V)`` logits, with one transfer from the device.

        Raises:
            RunError: the model gives NaN.
        """
        waits = np.empty((len(rows), race_width(logits.shape[-1])))
        for row, numbers in zip(rows, waits, strict=True):
            row.stream.standard_exponential(out=numbers)
        chosen, told = pick(logits, torch.from_numpy(waits).to(logits.device), self.sampling)
        tokens, logprobs = torch.stack([chosen.double(), told.double()]).tolist()
        for row, token, logprob in zip(rows, map(int, tokens), logprobs, strict=True):
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
