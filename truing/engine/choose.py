"""From logits to the next token of every draw in progress."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from truing.core.errors import RunError
from truing.core.lazy import torch
from truing.core.policy import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 256  # neighbours in the vocabulary that are summed together
LIKELY = 512  # tokens that hold most nuclei: a sort of the whole vocabulary costs as much as the model


def pick(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by the inverse of its distribution function.

    The filters are those of transformers, in its order: temperature, ``top_k``, ``top_p``, ``min_p``. A token that
    is exactly as likely as the last one kept by ``top_k`` or ``top_p`` is kept too, so ties need no order.

    Args:
        logits: ``(B, V)``, float32 or better.
        uniform: ``(B,)`` in [0, 1), one number a row; it decides the token.
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
        if sampling.temperature != 1:
            weights = ((logits - most) / sampling.temperature).exp_()
            sums = _block_sums(weights)
        if sampling.top_k or sampling.top_p < 1 or sampling.min_p > 0:
            weights.masked_fill_(weights < _least(weights, sampling), 0)
            sums = _block_sums(weights)
        chosen = _invert(weights, sums, uniform)
    return chosen, logits.gather(-1, chosen[:, None]).squeeze(-1) - total


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


def _invert(weights: torch.Tensor, sums: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token in which a uniform number falls when weights are laid end to end: first its block, then its place.

    Two small cumulated sums in float64 instead of one over the vocabulary: less work, and less rounding.
    """
    cumulated = sums.cumsum(-1)
    wanted = _below(uniform[:, None].double() * cumulated[:, -1:], cumulated[:, -1:])
    block = torch.searchsorted(cumulated, wanted, right=True).clamp_max(sums.shape[-1] - 1)
    own = sums.gather(-1, block)
    share = (wanted - (cumulated.gather(-1, block) - own)) / own
    places = block * BLOCK + torch.arange(BLOCK, device=block.device)
    outside = places >= weights.shape[-1]
    inside = weights.gather(-1, places.masked_fill(outside, 0)).masked_fill(outside, 0).double().cumsum(-1)
    wanted = _below(share.clamp_min(0) * inside[:, -1:], inside[:, -1:])
    at = torch.searchsorted(inside, wanted, right=True)
    return (block * BLOCK + at).squeeze(-1).clamp_max(weights.shape[-1] - 1)


def _below(wanted: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Below the last sum: a number that rounds up to it would fall on a token that the filters took out."""
    return wanted.minimum(last.nextafter(torch.zeros_like(last)))


@dataclass
class Row:
    """One draw in progress.

    Attributes:
        prompt, number: whose draw it is, and which.
        uniform: ``(max_new_tokens,)`` float64 numbers in [0, 1) that decide it.
    """

    prompt: int
    number: int
    uniform: NDArray[np.float64]
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
        uniform = np.array([row.uniform[len(row.tokens)] for row in rows], dtype=np.float64)
        chosen, told = pick(logits, torch.from_numpy(uniform).to(logits.device), self.sampling)
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
